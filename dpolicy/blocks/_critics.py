"""Critics off policy: ensembles of Q fitted to temporal-difference targets, and what they are asked."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._settings import Count, Fraction, NonNegative, Positive, Sizes
from dpolicy._types import Action, Critic, Key, Loss, Model, Number, Observation
from dpolicy.algorithm import Horizon
from dpolicy.blocks._bootstrap import NextValue, Policy, next_value, temporal_difference
from dpolicy.blocks._critic_function import critic_function
from dpolicy.blocks._critic_kinds import Kind, critic_kind
from dpolicy.blocks._deviations import Deviations
from dpolicy.learning import Acting, Parts, Seen, Stage, average, trained
from dpolicy.losses import CriticError, add
from dpolicy.networks import (
    Activation,
    Backbone,
    check_blocks,
    ensemble,
    on_backbone,
    unit_rows,
)
from dpolicy.optimisers import adam
from dpolicy.recipe import composed, tunable

# Which ensemble guides the actor, and how it is reduced.
CriticValues: TypeAlias = Literal["online_min", "online_mean", "target_min", "target_mean"]
CRITIC_VALUES = get_args(CriticValues)


def guide(parts: Parts, values: CriticValues) -> Critic:
    """The critic named by one of `online_min`, `online_mean`, `target_min`, `target_mean`."""
    which, how = values.split("_")
    return critic_function(parts.critic if which == "online" else parts.target, how)


def acting(policy: Policy, actor: Model, q: Critic) -> Callable[[Observation, Key], Action]:
    """`(obs, key) -> action` of a policy with these parameters, selecting by `q`: what an acting slot asks for."""
    return lambda obs, key: policy(actor, q, obs, key)[0]


def acts(policy: Policy, *, actor: str = "actor", select: CriticValues = "online_min") -> Acting:
    """An acting slot: the policy with the parameters of a part, selecting by one of the critics (see `guide`)."""
    return lambda parts: acting(policy, getattr(parts, actor), guide(parts, select))


def noisy(policy: Policy, std: Number, *, bound: Number | None = None) -> Policy:
    """Additive Gaussian noise: a + std * N(0, I). Environments clip what leaves the action box.

    Args:
        policy: Draws the action.
        std: Standard deviation of the noise.
        bound: The noise is clipped to [-bound, bound] (TD3's smoothing of the target policy, arXiv 1802.09477,
            section 5.3); None for none.
    """
    _checks.non_negative("exploration_noise", std)
    if bound is not None:
        _checks.non_negative("bound", bound)

    def act(actor: Model, q: Critic, obs: Observation, key: Key) -> tuple[Action, Float[Array, ""]]:
        policy_key, noise_key = jax.random.split(key)
        action, log_prob = policy(actor, q, obs, policy_key)
        noise = std * jax.random.normal(noise_key, action.shape, action.dtype)
        return action + (noise if bound is None else jnp.clip(noise, -bound, bound)), log_prob

    return act


def explores_apart(
    policy: Policy,
    low: Number,
    high: Number,
    *,
    actor: str = "actor",
    select: CriticValues = "online_min",
) -> Acting:
    """An acting slot with noise of its own for every environment, its deviation from `low` (the first) to `high`.

    The action is clipped to [-1, 1]. Of many environments at once some exploit, some explore (FastTD3, arXiv
    2505.22642), whatever the policy is.

    Args:
        policy: Draws the action.
        low: Standard deviation of the first environment's noise.
        high: Of the last's.
        actor: The part whose parameters the policy has.
        select: The critic that it selects by, if it does.
    """
    _checks.non_negative("exploration_low", low)
    _checks.non_negative("exploration_high", high)

    def explore(parts: Parts) -> Callable[..., Action]:
        def act(obs: Observation, key: Key, place: Number) -> Action:
            apart = within_box(noisy(policy, jnp.asarray(low + place * (high - low), float)))
            return acting(apart, getattr(parts, actor), guide(parts, select))(obs, key)

        return act

    return explore


def within_box(policy: Policy) -> Policy:
    """`policy` with its action clipped to [-1, 1]: what is stored is then what the environment does."""

    def act(actor: Model, q: Critic, obs: Observation, key: Key) -> tuple[Action, Float[Array, ""]]:
        action, log_prob = policy(actor, q, obs, key)
        return jnp.clip(action, -1.0, 1.0), log_prob

    return act


# What critics give and are made of, by the settings of `q_critics`; blocks whose critics are others leave these out.
KIND_SETTINGS = (*critic_kind.tunable, "critic_network", "critic_unit_weights")


def _with_term(fit: Loss, weight: Number, term: Loss) -> Loss:
    """`add` of both, with the metrics of the first as they are called without the second."""
    both = add(fit=(1.0, fit), beside=(weight, term))

    def loss(model: Model, example: Any, key: Key) -> Any:
        value, metrics = both(model, example, key)
        return value, {name.removeprefix("fit/"): x for name, x in metrics.items() if name != "fit/loss"}

    return loss


class Critics(NamedTuple):
    """An ensemble of critics and how it learns.

    Attributes:
        make: `(key, spec) -> ensemble`, called `critic(obs, action) -> values [n]`, or the laws of n members.
        optimiser: Of the ensemble.
        discount: gamma.
        target_rate: Share of the critics that enters the targets at each update.
        horizon: What transitions must span.
        reduction: Of the ensemble's errors, mean or sum.
        error: Of their predictions; None for the squared error of numbers.
        project: Applied to them after every step, or None.
        deviations: Of Gaussian critics, what bounds the samples that they are fitted to; None for other critics.
        subset: So many of the target critics, drawn anew at every update, stand for all of them; None for all.
    """

    make: Callable[[Key, Any], Model]
    optimiser: optax.GradientTransformation
    discount: Number
    target_rate: Number
    horizon: Horizon | None
    reduction: str = "mean"
    error: CriticError | None = None
    project: Callable[[Model], Model] | None = None
    deviations: Deviations | None = None
    subset: int | None = None

    def fitted(
        self,
        value: Callable[[Seen], NextValue],
        *,
        beside: Callable[[Seen], tuple[Number, Loss]] | None = None,
    ) -> Stage:
        """The stage that fits them to `r + gamma value(s')`; `value` is `seen -> ((example, key) -> number or law)`.

        Of Gaussian critics it owns the part "deviations", too. `beside` is another term of their loss and its weight,
        whose metrics are called beside/....
        """
        deviations = self.deviations

        def loss(s: Seen) -> Loss:
            error = self.error if deviations is None else deviations.error(s)
            common: dict[str, Any] = {"reduction": self.reduction, "sampled": deviations is not None}
            fit = temporal_difference(value(s), self.discount, error=error, **common)
            return fit if beside is None else _with_term(fit, *beside(s))

        stage = trained(self.make, loss, self.optimiser, horizon=self.horizon, project=self.project)
        stage = stage if deviations is None else deviations.beside(stage)
        return self.of_some(stage)

    def of_some(self, stage: Stage) -> Stage:
        """The stage, which sees `subset` of the target critics, the same throughout an update."""
        size = self.subset
        if size is None:
            return stage

        def step(part: Any, seen: Seen, key: Key) -> Any:
            draw_key, key = jax.random.split(key)
            members = seen.now.target.draw(size, draw_key)
            some = lambda parts: Parts(parts, target=parts.target.only(members))
            return stage.step(part, seen._replace(before=some(seen.before), now=some(seen.now)), key)

        return stage._replace(step=step)

    def backed_up(
        self,
        policy: Policy,
        *,
        actor: str = "actor",
        select: CriticValues = "online_min",
        temperature: Number | None = None,
    ) -> Stage:
        """The same with the lower target value of ONE action of the policy (`next_value`), of what the update found.

        Args:
            policy: Draws the action.
            actor: The part whose parameters it has.
            select: The critic that it selects by, if it does.
            temperature: Weight of the entropy; None for none.
        """

        def value(s: Seen) -> NextValue:
            q, target = guide(s.before, select), guide(s.before, "target_min")
            return next_value(policy, getattr(s.before, actor), q, target, temperature)

        return self.fitted(value)

    def averaged(self) -> Stage:
        """The stage of their targets, which follows the part called critic."""
        return average("critic", self.target_rate)


@tunable(
    "critic_learning_rate",
    "discount",
    "n_step",
    "target_rate",
    "critics",
    "critic_subset",
    "critic_hidden",
    "critic_activation",
    "critic_reduction",
    "critic_network",
    "critic_unit_weights",
    "max_grad_norm",
    "weight_decay",
    "critic_weight_decay",
)
@composed(critic_kind)
def q_critics(
    make_kind: Callable[..., Kind],
    *,
    network: Callable[..., Any] | None = None,
    b1: Number = 0.9,
    b2: Number = 0.999,
    critics: Count = 2,
    critic_subset: Count | None = None,
    critic_hidden: Sizes = (256, 256),
    critic_activation: Activation = "relu",
    critic_reduction: Literal["mean", "sum"] = "mean",
    critic_network: Backbone = "mlp",
    critic_unit_weights: bool = False,
    critic_learning_rate: Positive = 3e-4,
    discount: Fraction = 0.99,
    n_step: Count = 1,
    target_rate: Fraction = 0.005,
    max_grad_norm: Positive | None = None,
    weight_decay: NonNegative | None = None,
    critic_weight_decay: NonNegative | None = None,
) -> Critics:
    """Twin critics, or more: networks, their optimiser, their targets.

    Args:
        network: Makes one critic, as `QNetwork` does, in the place of that; fitted by a loss of its own.
        b1: Decay of Adam's first moment.
        b2: Of its second.
        critics: Critics in the ensemble.
        critic_subset: Targets are of so many of the target critics, drawn anew at each update (REDQ); None for all.
        critic_hidden: Widths of each critic's hidden layers.
        critic_activation: Activation of the critics.
        critic_reduction: Of the errors of the critics, their mean or their sum.
        critic_network: mlp, layer_norm (an mlp with these before activations), simba or bronet; of the last two
            `critic_hidden` is the width, once for each block.
        critic_unit_weights: Whether the rows of the critics' hidden layers are kept at norm 1 (`unit_rows`).
        critic_learning_rate: Adam's rate for the critics.
        discount: Discount gamma.
        n_step: Steps of reward in the critics' targets before they bootstrap; fewer where an episode ends.
        target_rate: Share of the online critics that enters the targets at each update.
        max_grad_norm: Bound on the norm of the actor's gradient, and of the critics', before Adam; None for none.
        weight_decay: Decoupled decay of the parameters of actor and critics (AdamW); None for none.
        critic_weight_decay: That of the critics, where it is another.

    Raises:
        ValueError: For a value out of its range.
    """

    decay = weight_decay if critic_weight_decay is None else critic_weight_decay
    bounds: dict[str, Any] = {"max_grad_norm": max_grad_norm, "weight_decay": decay}
    kind = make_kind()
    if network is not None and kind.name != "scalar":
        raise ValueError(f"critic must be scalar where a network is given, got {kind.name!r}.")
    if critic_subset is not None and critic_subset > critics:
        raise ValueError(f"critic_subset must be at most critics, {critics}, got {critic_subset}.")
    check_blocks("critic_hidden", critic_hidden, critic_network)
    build = on_backbone(kind.network if network is None else network, critic_network)

    def make(key: Key, spec: Any) -> Model:
        layers: dict[str, Any] = {"hidden": critic_hidden, "activation": critic_activation}
        one = lambda key: build(spec.obs_size, spec.action_size, **layers, key=key)
        return ensemble(one, critics, key=key)

    optimiser = adam(critic_learning_rate, b1=b1, b2=b2, **bounds)
    project = unit_rows if critic_unit_weights else None
    horizon = None if n_step == 1 else Horizon(n_step, discount)
    return Critics(
        make,
        optimiser,
        discount,
        target_rate,
        horizon,
        critic_reduction,
        kind.error,
        project,
        kind.deviations,
        critic_subset,
    )
