"""Critics off policy: ensembles of Q fitted to temporal-difference targets, and what they are asked."""

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, get_args

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._settings import Count, Finite, Fraction, NonNegative, Positive, Sizes, at_least
from dpolicy._types import Action, Critic, Key, Loss, Model, Number, Observation, Scalar, Transition
from dpolicy.algorithm import Horizon
from dpolicy.blocks._critic_function import critic_function
from dpolicy.blocks._critic_kinds import CriticKind, critic_kind
from dpolicy.learning import Acting, Parts, Seen, Stage, average, trained
from dpolicy.losses import CriticError, bellman, td_target, td_target_law
from dpolicy.networks import (
    Activation,
    Backbone,
    Points,
    check_blocks,
    ensemble,
    on_backbone,
    unit_rows,
)
from dpolicy.optimisers import adam
from dpolicy.recipe import tunable

# Draws an action and its log-density, `(actor, q, obs, key) -> (action, log_prob)`, with `q` the critic that policies
# select by which select. Policies without a density return zero, which switches entropy terms off.
Policy: TypeAlias = Callable[[Model, Critic, Observation, Key], tuple[Action, Float[Array, ""]]]
# The value of where a transition leads, a number or a law: `(example, key) -> value at example.next_obs`.
NextValue: TypeAlias = Callable[[Transition, Key], Scalar | Points]

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


def next_value(
    policy: Policy,
    actor: Model,
    q: Critic,
    target: Critic,
    temperature: Number | None = None,
    *,
    actions: int = 1,
    over: str = "mean",
    scale: Number = 1.0,
) -> NextValue:
    """The value of the next observation under a policy: target(s', a') - temperature log pi(a'|s'), over its actions.

    Of critics that give laws it is a law: of several actions their mixture, or that of the highest mean.

    Args:
        policy: Draws the actions.
        actor: Its parameters.
        q: What it selects by, if it does.
        target: Values an action.
        temperature: Weight of the entropy; None for none.
        actions: Actions drawn.
        over: Of several: their mean, max, or soft value, scale log mean exp(value / scale).
        scale: Of soft.
    """
    _checks.integer("actions", actions)
    _checks.one_of("over", over, ("mean", "max", "soft"))

    outcome = getattr(target, "outcome", target)

    def one(example: Transition, key: Key) -> Any:
        action, log_prob = _checks.paired(
            "the policy", policy(actor, q, example.next_obs, key), "(action, log_prob)"
        )
        value = outcome(example.next_obs, action)
        if temperature is None:
            return value
        bonus = temperature * log_prob
        return value._replace(value=value.value - bonus) if isinstance(value, Points) else value - bonus

    def several(example: Transition, key: Key) -> Any:
        values = jax.vmap(one, in_axes=(None, 0))(example, jax.random.split(key, actions))
        if isinstance(values, Points):
            if over == "soft":
                raise ValueError("over must be mean or max for critics that give laws, got 'soft'.")
            if over == "max":
                best = jnp.argmax(values.mean)
                return jax.tree.map(lambda leaf: leaf[best], values)
            return Points(values.value.reshape(-1), values.weight.reshape(-1) / actions)
        if over == "soft":
            return scale * (jax.nn.logsumexp(values / scale) - math.log(actions))
        return jnp.max(values) if over == "max" else jnp.mean(values)

    return one if actions == 1 else several


def temporal_difference(
    value: NextValue, discount: Number, *, reduction: str = "mean", error: CriticError | None = None
) -> Loss:
    """`bellman` with y = r + gamma (1 - terminated) value(s'): of a single step, or of as many as the example spans.

    An example of several steps brings the discount of its window (`Transition.discount`), gamma^h; `reduction` is over
    the members of an ensemble, `error` of their predictions, squared unless given.
    """

    def target(example: Transition, key: Key) -> Scalar | Points:
        gamma = discount if example.discount is None else example.discount
        following = value(example, key)
        if isinstance(following, Points):
            return td_target_law(example.reward, example.terminated, following, gamma)
        return td_target(example.reward, example.terminated, following, gamma)

    return bellman(target, reduction=reduction, error=error)


# The settings of `q_critics` that say what a critic gives; blocks with laws of their own leave them out.
LAW_SETTINGS = ("critic", "critic_low", "critic_high", "critic_atoms")
KIND_SETTINGS = (*LAW_SETTINGS, "critic_network", "critic_unit_weights")


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
    subset: int | None = None

    def fitted(self, value: Callable[[Seen], NextValue]) -> Stage:
        """The stage that fits them to `r + gamma value(s')`; `value` is `seen -> ((example, key) -> number or law)`."""
        loss = lambda of: temporal_difference(of, self.discount, reduction=self.reduction, error=self.error)
        stage = trained(
            self.make,
            lambda seen: loss(value(seen)),
            self.optimiser,
            horizon=self.horizon,
            project=self.project,
        )
        return self.of_some(stage)

    def of_some(self, stage: Stage) -> Stage:
        """The stage, which sees `subset` of the target critics, the same throughout an update."""
        size = self.subset
        if size is None:
            return stage

        def step(part: Any, seen: Seen, key: Key) -> Any:
            draw_key, key = jax.random.split(key)
            some = lambda parts: Parts(parts, target=parts.target.drawn(size, draw_key))
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
    *KIND_SETTINGS,
    "max_grad_norm",
    "weight_decay",
)
def q_critics(
    *,
    network: Callable[..., Any] | None = None,
    b1: Number = 0.9,
    critics: Count = 2,
    critic_subset: Count | None = None,
    critic_hidden: Sizes = (256, 256),
    critic_activation: Activation = "relu",
    critic_reduction: Literal["mean", "sum"] = "mean",
    critic: CriticKind = "scalar",
    critic_network: Backbone = "mlp",
    critic_unit_weights: bool = False,
    critic_low: Finite | None = None,
    critic_high: Finite | None = None,
    critic_atoms: Annotated[int, at_least(2)] | None = None,
    critic_learning_rate: Positive = 3e-4,
    discount: Fraction = 0.99,
    n_step: Count = 1,
    target_rate: Fraction = 0.005,
    max_grad_norm: Positive | None = None,
    weight_decay: NonNegative | None = None,
) -> Critics:
    """Twin critics, or more: networks, their optimiser, their targets.

    Args:
        network: Makes one critic, as `QNetwork` does, in the place of that; fitted by a loss of its own.
        b1: Decay of Adam's first moment.
        critics: Critics in the ensemble.
        critic_subset: Targets are of so many of the target critics, drawn anew at each update (REDQ); None for all.
        critic_hidden: Widths of each critic's hidden layers.
        critic_activation: Activation of the critics.
        critic_reduction: Of the errors of the critics, their mean or their sum.
        critic: What critics give, and are fitted by: scalar (Q, squared error), c51 (probabilities of atoms; the
            projected law of the target), hl_gauss (the same; the target's mean as a histogram) or quantile.
        critic_network: mlp, simba or bronet; of the last two `critic_hidden` is the width, once for each block.
        critic_unit_weights: Whether the rows of the critics' hidden layers are kept at norm 1 (`unit_rows`).
        critic_low: The lowest atom of c51 and hl_gauss, -100 unless given. Values outside the atoms cannot be learned;
            the metric "outside" is their share of the targets.
        critic_high: The highest atom, 100 unless given.
        critic_atoms: Number of atoms, 101 unless given, or of quantiles, 100.
        critic_learning_rate: Adam's rate for the critics.
        discount: Discount gamma.
        n_step: Steps of reward in the critics' targets before they bootstrap; fewer where an episode ends.
        target_rate: Share of the online critics that enters the targets at each update.
        max_grad_norm: Bound on the norm of the actor's gradient, and of the critics', before Adam; None for none.
        weight_decay: Decoupled decay of the parameters of actor and critics (AdamW); None for none.

    Raises:
        ValueError: For a value out of its range.
    """

    bounds: dict[str, Any] = {"max_grad_norm": max_grad_norm, "weight_decay": weight_decay}
    if network is not None and critic != "scalar":
        raise ValueError(f"critic must be scalar where a network is given, got {critic!r}.")
    if critic_subset is not None and critic_subset > critics:
        raise ValueError(f"critic_subset must be at most critics, {critics}, got {critic_subset}.")
    check_blocks("critic_hidden", critic_hidden, critic_network)
    kind = critic_kind(critic, low=critic_low, high=critic_high, atoms=critic_atoms)
    build = on_backbone(kind.network if network is None else network, critic_network)

    def make(key: Key, spec: Any) -> Model:
        layers: dict[str, Any] = {"hidden": critic_hidden, "activation": critic_activation}
        one = lambda key: build(spec.obs_size, spec.action_size, **layers, key=key)
        return ensemble(one, critics, key=key)

    optimiser = adam(critic_learning_rate, b1=b1, **bounds)
    project = unit_rows if critic_unit_weights else None
    horizon = None if n_step == 1 else Horizon(n_step, discount)
    return Critics(
        make, optimiser, discount, target_rate, horizon, critic_reduction, kind.error, project, critic_subset
    )
