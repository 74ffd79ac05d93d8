"""Critics on two levels: of actions, and of the noised actions that a chain passes on its way to them (BDPO)."""

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

from dpolicy._settings import Count, NonNegative, Sizes, one_of
from dpolicy._types import Key, Model, Number
from dpolicy.blocks._critic_function import critic_function
from dpolicy.blocks._critics import Critics, q_critics
from dpolicy.blocks._field_policy import FieldPolicy
from dpolicy.blocks._several import value_of_several
from dpolicy.fields import EMBEDDINGS, AbstractEmbedding, EnergyNetwork
from dpolicy.learning import Parts, Seen, Stage, average, trained
from dpolicy.losses import StepValue, step_ascent, step_regression, step_value
from dpolicy.networks import Activation, ensemble
from dpolicy.recipe import composed, tunable


class StepCritics(NamedTuple):
    """Critics of actions and of noised actions, whose values are less the divergence from a behaviour policy.

    The parts that they ask for are "behaviour_average", the slow copy of that policy, "average", that of the actor, and
    the targets of both critics, "target" and "value_target".

    Attributes:
        critics: The ensemble of Q.
        make: `(key, spec) -> ensemble of V`, called `v(x, t, obs) -> values`.
        eta: Weight of the divergence.
        pessimism: Deviations below the mean of the critics.
        actions: Chains in a target of Q.
        over: Their mean or max.
        draws: Of a step's noise, in targets of V and in the actor's loss.
    """

    critics: Critics
    make: Callable[[Key, Any], Model]
    eta: Number
    pessimism: Number
    actions: int
    over: Literal["mean", "max"]
    draws: int

    def fitted(self, policy: FieldPolicy) -> Stage:
        """The stage of Q, towards r + gamma (Q(s', a') - eta the divergence of the whole path that ends in a')."""

        def value(s: Seen) -> Any:
            return value_of_several(
                policy.against(s.before.behaviour_average),
                s.before.average,
                critic_function(s.before.target),
                s.before.target,
                actions=self.actions,
                over=self.over,
                how="lcb",
                pessimism=self.pessimism,
                temperature=self.eta,
            )

        return self.critics.fitted(value)

    def valued(self, policy: FieldPolicy) -> Stage:
        """The stage of V, towards the value of one step of the actor's slow copy from a noised action of the data."""

        def fit(s: Seen) -> Any:
            value = self.step(policy, s.before)
            return step_regression(policy.sample, s.before.average, value, reduction=self.critics.reduction)

        return self.critics.of_some(trained(self.make, fit, self.critics.optimiser))

    def climbed(self, policy: FieldPolicy) -> Callable[[Seen], Any]:
        """`seen -> loss` of the actor, which climbs the targets that this update has left by one step of its chain."""
        # Against the copy that this update found: the behaviour's own step comes after the actor's.
        return lambda s: step_ascent(
            policy.sample,
            self.step(policy, Parts(s.now, behaviour_average=s.before["behaviour_average"])),
        )

    def step(self, policy: FieldPolicy, parts: Parts) -> StepValue:
        """`step_value` with these parts."""
        return step_value(
            policy.sample,
            parts.behaviour_average,
            parts.target,
            parts.value_target,
            self.eta,
            draws=self.draws,
            pessimism=self.pessimism,
        )

    def averaged(self) -> Stage:
        """The stage of the targets of V, which follows the part called value."""
        return average("value", self.critics.target_rate)


@tunable("eta", "pessimism", "backup_actions", "backup", "step_draws", "value_embedding")
@tunable("critics", "critic_hidden", "critic_activation")
@composed(q_critics)
def step_critics(
    make_critics: Callable[..., Critics],
    *,
    eta: NonNegative = 0.15,
    pessimism: NonNegative = 1.0,
    backup_actions: Count = 10,
    backup: Literal["mean", "max"] = "mean",
    step_draws: Count = 10,
    value_embedding: Annotated[str, one_of(EMBEDDINGS)] | Callable[[Key], AbstractEmbedding] = "fourier_mlp",
    critics: Count = 10,
    critic_hidden: Sizes = (256, 256, 256),
    critic_activation: Activation = "mish",
) -> StepCritics:
    r"""Q of actions, V_n of actions with the noise of level n, both less a divergence (BDPO, arXiv 2502.04778).

    $$ Q(s, a) = E [r + \gamma (Q(s', a'_0) - \eta \sum_n l_n(a'_n, s'))], \qquad
       V_n(x_n, s) = E [V_{n-1}(x_{n-1}, s)] - \eta\, l_n(x_n, s), \qquad V_0 = Q, $$

    l_n the divergence of one reverse step of the policy from that of a behaviour policy, as
    `dpolicy.samplers.step_divergence` has it. The networks of V normalise their layers, as in the code; those of Q by
    `critic_network`.

    Args:
        eta: Weight of the divergence, in units of Q.
        pessimism: Deviations below the mean of the critics, wherever they are reduced.
        backup_actions: Chains in a target of Q.
        backup: Mean or max of their values, within each critic.
        step_draws: Draws of a step's noise in a target of V and in the actor's loss.
        value_embedding: Of the time in V; see `field_policy`.
        critics: Critics in the ensembles of Q and of V.
        critic_hidden: Widths of the hidden layers of each critic.
        critic_activation: Activation of the critics.
    """
    layers: dict[str, Any] = {"hidden": critic_hidden, "activation": critic_activation}
    made = make_critics(critics=critics, critic_hidden=critic_hidden, critic_activation=critic_activation)

    def make(key: Key, spec: Any) -> Model:
        def one(key: Key) -> EnergyNetwork:
            options: dict[str, Any] = {"embedding": value_embedding, "initialisation": "orthogonal"}
            return EnergyNetwork(
                spec.obs_size, spec.action_size, **layers, **options, layer_norm=True, key=key
            )

        return ensemble(one, critics, key=key)

    return StepCritics(made, make, eta, pessimism, backup_actions, backup, step_draws)
