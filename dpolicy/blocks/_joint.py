"""Networks with batch renormalisation as stages: statistics that a loss reports, and CrossQ's joint pass."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from dpolicy import _checks
from dpolicy._settings import Finite, Fraction, NonNegative, at_least
from dpolicy._types import Key, Loss, Metrics, Model, Number, Scalar, Transition
from dpolicy.blocks._bootstrap import Policy, less, temporal_difference
from dpolicy.blocks._critic_function import critic_function, outcome_of
from dpolicy.blocks._critics import KIND_SETTINGS, Critics, q_critics
from dpolicy.learning import Seen, Stage, trained
from dpolicy.losses import categorical_error
from dpolicy.losses.categorical import check_support
from dpolicy.networks import AtomicQ, CategoricalQ, Ensemble, QNetwork, renormalised
from dpolicy.recipe import composed, tunable

_CARRIED = "carried_"


def carried(values: Sequence[Array]) -> Metrics:
    """Arrays that a loss reports for `carrying`, as metrics; they are averaged over the batch as those are."""
    return {f"{_CARRIED}{i}": jax.lax.stop_gradient(value) for i, value in enumerate(values)}


def carrying(stage: Stage, put: Callable[[Model, tuple[Array, ...]], Model]) -> Stage:
    """A trained stage, whose model takes in after each step what its loss has reported: running statistics.

    Whatever is in a model is a parameter, but what carries no gradient stays as it is; so a model may hold statistics,
    and this puts the new ones in.

    Args:
        stage: As `trained` makes it, of a loss whose metrics hold `carried(values)`; these are not reported further.
        put: `(model, values) -> model`, the values in the order they were given in.
    """
    _checks.instance("stage", stage, Stage, "a Stage")
    _checks.slot("put", put, 2, "(model, values) -> model")

    def step(part: Any, seen: Seen, key: Key) -> tuple[Any, dict[str, Any], Metrics]:
        part, added, metrics = stage.step(part, seen, key)
        names = sorted(
            (n for n in metrics if n.startswith(_CARRIED)), key=lambda n: int(n.removeprefix(_CARRIED))
        )
        if not names:
            raise ValueError(
                f"the loss of stage {seen.stage!r} must report what is carried, got {list(metrics)}."
            )
        model = put(part.model, tuple(metrics[name] for name in names))
        kept = {name: value for name, value in metrics.items() if name not in names}
        return eqx.tree_at(lambda p: p.model, part, model), added, kept

    return stage._replace(step=step)


def over_the_batch(loss: Loss, *, following: bool = False) -> Loss:
    """`loss`, whose model, a policy with a `RenormMLP`, takes the statistics of the batch and reports them (`carried`).

    Args:
        loss: On a policy whose network sees the observation.
        following: Whether the statistics are those of observations before and after the step together.
    """

    def one(model: Model, example: Transition, key: Key) -> tuple[Scalar, Metrics]:
        seen = jnp.stack([example.obs, example.next_obs]) if following else example.obs
        _, network, statistics = model.mlp.over(seen)
        value, metrics = loss(eqx.tree_at(lambda m: m.mlp, model, network), example, key)
        return value, {**metrics, **carried(statistics)}

    return one


class JointCritics(NamedTuple):
    """Critics with batch (re)normalisation and how they learn, of themselves or of slow copies.

    Attributes:
        critics: Networks, optimiser and discount; called by their running statistics.
        rate: Share of a batch that enters these.
        how: What targets are made of: the min of their values, or the mean of their laws; see `critic_function`.
    """

    critics: Critics
    rate: Number
    how: str = "min"

    def loss(
        self,
        policy: Policy,
        actor: Model,
        critic: Model,
        temperature: Number | None,
        target: Model | None = None,
    ) -> Loss:
        """The error of each transition, both of whose values come of one pass over [(s, a), (s', a')].

        Args:
            policy: Draws a' ~ pi(s'), with its log-density.
            actor: Its parameters.
            critic: What it selects by, if it does.
            temperature: Weight of the entropy; None for none.
            target: Critics whose values at s' are bootstrapped, of a pass of their own over both, so normalised by
                their own statistics of the batch; None for those of the pass that learns.
        """
        q, critics = critic_function(critic), self.critics

        def one(model: Model, example: Transition, key: Key) -> tuple[Scalar, Metrics]:
            action, log_prob = policy(actor, q, example.next_obs, key)
            both = jnp.stack([example.obs, example.next_obs]), jnp.stack([example.action, action])

            def outputs(member: Model) -> tuple[Any, tuple[Array, ...]]:
                out, _, statistics = member.mlp.over(*both)
                return jax.vmap(member.read)(out), statistics

            pairs, statistics = eqx.filter_vmap(outputs)(model.members)
            slow = pairs if target is None else eqx.filter_vmap(outputs)(target.members)[0]
            here = jax.tree.map(lambda leaf: leaf[:, 0], pairs)
            there = jax.tree.map(lambda leaf: leaf[:, 1], slow)
            following = outcome_of(critic_function(lambda *_: there, self.how))(example.next_obs, action)
            if temperature is not None:
                following = less(following, temperature * log_prob)
            # `bellman` cuts the gradient of the target.
            difference = temporal_difference(
                lambda *_: following, critics.discount, reduction=critics.reduction, error=critics.error
            )
            value, metrics = difference(lambda *_: here, example, key)
            return value, {**metrics, **carried(statistics)}

        return one

    def fitted(
        self,
        policy: Policy,
        temperature: Callable[[Seen], Number] | None = None,
        *,
        actor: str = "actor",
        found: bool = True,
        target: str | None = None,
    ) -> Stage:
        """The stage that fits them.

        Args:
            policy: Draws the next action.
            temperature: `seen -> ` the weight of the entropy; None for none.
            actor: The part whose parameters the policy has.
            found: Whether these are as the update found them, or as the stages before this one have left them.
            target: The part whose critics are bootstrapped; None for the critics themselves.
        """

        def loss(s: Seen) -> Loss:
            weight = None if temperature is None else temperature(s)
            slow = None if target is None else getattr(s.before, target)
            model = getattr(s.before if found else s.now, actor)
            return self.loss(policy, model, s.before.critic, weight, slow)

        critics = self.critics
        stage = trained(
            critics.make, loss, critics.optimiser, horizon=critics.horizon, project=critics.project
        )
        return carrying(critics.of_some(stage), self.moved)

    def averaged(self) -> Stage:
        """The stage of slow copies, which follows the part called critic, its running statistics included."""
        return self.critics.averaged()

    def moved(self, model: Model, statistics: Sequence[Array]) -> Model:
        """The ensemble, or a single network with a `RenormMLP`, with its running statistics moved."""
        where = lambda m: (m.members if isinstance(m, Ensemble) else m).mlp
        return eqx.tree_at(where, model, where(model).moved(statistics, self.rate))


@tunable("renorm_rate", "renorm_warmup")
@composed(
    q_critics,
    without=("target_rate", "critic_subset", *KIND_SETTINGS),
    critic_hidden=(2048, 2048),
    critic_learning_rate=1e-3,
    critic_reduction="sum",
)
def joint_critics(
    make_critics: Callable[..., Critics],
    *,
    network: Callable[..., Model] | None = None,
    b1: Number = 0.9,
    renorm_rate: Fraction = 0.01,
    renorm_warmup: Annotated[int, at_least(0)] = 100_000,
) -> JointCritics:
    """Wide critics with batch renormalisation, fitted without target networks (CrossQ, arXiv 1902.05605).

    Args:
        network: Makes one critic, before its renormalisation; `QNetwork` unless given.
        b1: Decay of Adam's first moment.
        renorm_rate: Share of a batch that enters the running statistics at each step.
        renorm_warmup: Steps of a network for which batches are normalised plainly, before they are renormalised.
    """
    renorm = renormalised(QNetwork if network is None else network, warmup=renorm_warmup)
    return JointCritics(make_critics(network=renorm, b1=b1), renorm_rate)


@tunable("atoms", "value_low", "value_high", "entropy_weight")
@composed(joint_critics, critic_learning_rate=3e-4)
def joint_categorical_critics(
    make_critics: Callable[..., JointCritics],
    *,
    b1: Number = 0.9,
    atoms: Annotated[int, at_least(2)] = 101,
    value_low: Finite = -200.0,
    value_high: Finite = 200.0,
    entropy_weight: NonNegative = 0.005,
) -> JointCritics:
    r"""Critics as those of `joint_critics`, whose laws of the return are over fixed atoms z (DIME, arXiv 2502.02316).

    $$ y = \frac1J \sum_j \Pi \big[ r + \gamma (1 - \mathrm{terminated}) (z - \lambda C') \big] p_j(s', a'), \qquad
       L = -\sum_j \sum_l y_l \log p_{jl}(s, a) + c \sum_j \sum_l p_{jl} \log p_{jl}, $$

    Pi the projection onto the atoms (`categorical_target`), y without gradient; Q_j = sum_l z_l p_jl.

    Args:
        b1: Decay of Adam's first moment.
        atoms: Atoms of the critics' laws.
        value_low: The lowest atom. Values outside the atoms, entropy included, cannot be learned.
        value_high: The highest atom.
        entropy_weight: Weight of the bonus for the entropy of the critics' laws.

    Raises:
        ValueError: For a highest atom that is not above the lowest.
    """
    check_support(value_low, value_high, atoms, "value_{}")
    network = lambda *sizes, **given: AtomicQ(
        CategoricalQ(*sizes, atoms=atoms, **given), value_low, value_high
    )
    made = make_critics(network=network, b1=b1)
    critics = made.critics._replace(error=categorical_error(entropy_weight=entropy_weight))
    return made._replace(critics=critics, how="mean")
