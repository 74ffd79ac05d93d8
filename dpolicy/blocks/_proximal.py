"""PPO's outer loop as a composition: advantages, passes over minibatches with one gradient, what follows them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dpolicy import _checks
from dpolicy._settings import Count, Fraction, NonNegative, Positive, Sizes, at_least
from dpolicy._types import Action, Key, Loss, Metrics, Model, Number, Observation, Scalar, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.blocks._advantages import Advantages, advantage_estimation
from dpolicy.learning import (
    Acting,
    Parts,
    Seen,
    Stage,
    Term,
    algorithm,
    every,
    labelled_by_part,
    passes,
    reported,
    together,
)
from dpolicy.losses import explained_variance, value_regression, weighted
from dpolicy.networks import Activation, Initialisation, ValueNetwork
from dpolicy.networks._mlp import check_residual
from dpolicy.optimisers import adam, by_kl, by_updates, waiting
from dpolicy.recipe import composed, tunable

# How far a policy has moved from the one that acted: `(policy, example, key) -> KL(old || new)`.
Divergence: TypeAlias = Callable[[Model, Transition, Key], Float[Array, ""]]

# Stream of an example's key that no term of a loss draws from (theirs are 0, 1, 2, ...).
_KL = 2**30


def acted(obs: Observation, action: Action, extras: dict[str, Any]) -> Transition:
    """A transition as far as it is known while acting, for the log-likelihood that is stored with it."""
    no, zero = jnp.asarray(False), jnp.zeros(())
    return Transition(obs, action, zero, obs, no, no, extras)


def measured(loss: Loss, kl: Divergence) -> Loss:
    """The loss with `kl`, of the same model, among its metrics, as "divergence"."""

    def with_kl(model: Model, example: Transition, key: Key) -> tuple[Scalar, Metrics]:
        value, metrics = loss(model, example, key)
        divergence = _checks.returned("kl", kl(model, example, jax.random.fold_in(key, _KL)))
        return value, {**metrics, "divergence": divergence}

    return with_kl


@tunable(
    "value_coefficient",
    "value_clip",
    "value_hidden",
    "value_activation",
    "value_residual",
    "activation",
    "initialisation",
)
def value_function(
    *,
    without_truncated: bool = False,
    value_hidden: Sizes = (256, 256),
    value_activation: Activation | None = None,
    value_residual: bool = False,
    activation: Activation = "elu",
    initialisation: Initialisation = "torch",
    value_coefficient: NonNegative = 1.0,
    value_clip: Positive | None = None,
) -> Term:
    """A value network and its regression on returns, as a part of a common gradient.

    Args:
        without_truncated: Whether steps at which time ran out do not enter.
        value_hidden: Widths of the value network.
        value_activation: Its activation; None for that of the other networks.
        value_residual: Whether its pairs of hidden layers have a shortcut; the widths must be equal, and odd in number.
        activation: Activation of the networks.
        initialisation: Of the weights: torch (RSL-RL's), orthogonal, lecun_normal, lecun_uniform, he_normal or
            xavier_uniform.
        value_coefficient: Weight of the value loss.
        value_clip: Largest change of a value per iteration before its loss flattens; None switches that off.

    Raises:
        ValueError: For a value out of its range.
    """
    check_residual(value_residual, value_hidden=value_hidden)
    loss = value_regression(eps=value_clip)
    if without_truncated:
        loss = weighted(lambda example: jnp.where(example.truncated, 0.0, 1.0), loss)

    def make(key: Key, spec: Any) -> ValueNetwork:
        return ValueNetwork(
            spec.obs_size,
            hidden=value_hidden,
            activation=activation if value_activation is None else value_activation,
            initialisation=initialisation,
            residual=value_residual,
            key=key,
        )

    return Term(make, lambda s: loss, value_coefficient)


@tunable(
    "learning_rate",
    "value_learning_rate",
    "learning_rate_floor",
    "learning_rate_warmup",
    "learning_rate_cycle",
    "weight_decay",
    "target_kl",
    "critic_warmup",
    "max_grad_norm",
)
def proximal_optimiser(
    *,
    kl: str | None,
    kl_floor: Number = 0.0,
    learning_rate: Positive = 1e-3,
    value_learning_rate: Positive | None = None,
    learning_rate_floor: Fraction = 1.0,
    learning_rate_warmup: int = 10,
    learning_rate_cycle: Count = 1_000,
    weight_decay: NonNegative | None = None,
    target_kl: Positive | None = None,
    critic_warmup: Annotated[int, at_least(0)] = 0,
    max_grad_norm: Positive = 1.0,
) -> optax.GradientTransformation:
    """Adam under a common bound of the gradient's norm, for the parts "policy" and "value".

    Its rate is fixed, or adapts to the KL of the minibatch about to be trained on; it may follow a cycle of warm-up and
    cosine, and the policy may wait for the value network.

    Args:
        kl: The metric that the adaptive rate reads.
        kl_floor: That rate rises only where the KL is above it: 0, or a little less for an estimate that may be
            negative.
        learning_rate: Adam's rate, or its start where it adapts.
        value_learning_rate: Rate of the value network where it has one of its own, which then does not adapt.
        learning_rate_floor: Smallest factor on both rates, where a cycle of warm-up and cosine starts and ends; 1 keeps
            them constant (DPPO, arXiv 2409.00588, whose warm-up and cycle the next two are).
        learning_rate_warmup: Iterations at the start of a cycle over which that factor rises to 1.
        learning_rate_cycle: Iterations of a cycle, warm-up included; then the next one starts.
        weight_decay: Decoupled weight decay; None for none.
        target_kl: Target of the adaptive rate; None keeps the rate fixed.
        critic_warmup: Iterations at the start that train the value network alone; the policy, its optimiser, the
            adaptive rate and what follows the epochs wait.
        max_grad_norm: Largest global gradient norm.

    Raises:
        ValueError: For a value out of its range.
    """
    _checks.integer("learning_rate_warmup", learning_rate_warmup, 0, learning_rate_cycle - 1)
    # It falls to its floor within a cycle; the remainder in `factor` starts it again.
    cosine = optax.warmup_cosine_decay_schedule(
        learning_rate_floor, 1.0, learning_rate_warmup, learning_rate_cycle, learning_rate_floor
    )
    # Without a cycle no schedule is computed; a traced floor might be anything, and computes it.
    constant = isinstance(learning_rate_floor, (int, float)) and learning_rate_floor == 1

    def factor(updates: Int[Array, ""]) -> Any:
        return 1.0 if constant else cosine(updates % learning_rate_cycle)

    def of_policy(updates: Int[Array, ""]) -> Any:
        # The policy's cycle starts when the policy does.
        return factor(jnp.maximum(updates - critic_warmup, 0))

    def rate(factor: Callable[[Int[Array, ""]], Any]) -> optax.GradientTransformation:
        if target_kl is None:
            return by_updates(lambda updates: factor(updates) * learning_rate)
        adapting: dict[str, Any] = {"metric": kl, "floor": kl_floor, "after": critic_warmup}
        return by_kl(learning_rate, target_kl, factor=None if constant else factor, **adapting)

    direction = adam(None, max_grad_norm=max_grad_norm, weight_decay=weight_decay)
    if critic_warmup > 0:
        each = adam(None, weight_decay=weight_decay)
        parts: dict[Any, Any] = {"policy": waiting(each, critic_warmup), "value": each}
        # The norm is bounded for both together, before the parts go their own ways, as without a warm-up.
        bounded = optax.clip_by_global_norm(max_grad_norm)
        direction = optax.chain(bounded, optax.partition(parts, labelled_by_part))
    if value_learning_rate is None and constant:
        return optax.chain(direction, rate(of_policy))
    own = rate(factor)
    if value_learning_rate is not None:
        own = by_updates(lambda updates: factor(updates) * value_learning_rate)
    return optax.chain(
        direction, optax.partition({"policy": rate(of_policy), "value": own}, labelled_by_part)
    )


@tunable("stop_kl", "recompute_segment", "epochs", "minibatches")
def minibatch_passes(
    *,
    kl: str | None,
    estimate: Advantages,
    update: Stage,
    stop_kl: Positive | None = None,
    recompute_segment: Count | None = None,
    epochs: Count = 5,
    minibatches: Count = 4,
) -> Stage:
    """Passes over the minibatches of a rollout: advantages as a minibatch sees them, and the common gradient.

    Args:
        kl: The metric that `stop_kl` reads.
        estimate: How advantages are computed.
        update: The stage that trains policy and value network.
        stop_kl: The rest of an iteration is skipped once the KL of a minibatch exceeds it; None for never.
        recompute_segment: Compute advantages and returns anew for every minibatch, with the value network as it then
            is, along segments of this many steps, of which minibatches are then made (Brax); None for once per rollout.
        epochs: Passes over each rollout.
        minibatches: Minibatches per pass; must divide the samples of a rollout.

    Raises:
        ValueError: For a value out of its range, or advantages standardised over the rollout that are computed anew.
    """
    stages: dict[str, Any] = {}
    if recompute_segment is not None:
        if estimate.normalise == "rollout":
            raise ValueError(
                "normalise_advantages must be minibatch or none where advantages are recomputed for every minibatch, "
                "got 'rollout'."
            )
        stages["advantages"] = estimate.relabelled()
    if (shaped := estimate.shaped()) is not None:
        stages["shaped"] = shaped
    stages["update"] = update
    if kl is not None:
        stages["divergence"] = reported(lambda s: {"kl": s.metrics[kl]})
    stop = None
    if stop_kl is not None:
        # Written so that a KL that is nan stops too.
        stop = lambda metrics: ~(metrics["kl"] <= stop_kl)
    return passes(epochs=epochs, minibatches=minibatches, segment=recompute_segment, stop=stop, **stages)


@composed(proximal_optimiser, advantage_estimation, value_function, minibatch_passes)
def proximal(
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_advantages: Callable[..., Advantages],
    make_value: Callable[..., Term],
    make_passes: Callable[..., Stage],
    *,
    name: str,
    make_policy: Callable[[Key, Any], Model],
    explore: Acting,
    evaluate: Acting,
    policy_loss: Loss,
    modes: Mapping[str, Acting] | None = None,
    kl: str | Divergence | None = None,
    kl_floor: Number = 0.0,
    stages: Mapping[str, Stage] | None = None,
) -> Algorithm:
    """PPO's outer loop with slots for the policy, its log-likelihood and what follows the clipped epochs.

    One iteration on a rollout [time, environment]:

        advantages   advantages and returns by GAE, advantages standardised
        learn        `epochs` passes over `minibatches` shuffled minibatches of
                         loss = policy_loss + value_coefficient * value_loss
                     with Adam under a global bound of the gradient's norm, its rate fixed or adapted to the KL of the
                     minibatch about to be trained on
        stages       whatever the method does then

    Args:
        name: The algorithm's name.
        make_policy: `(key, spec) -> policy`, the module `policy_loss` differentiates: the part "policy".
        explore: `parts -> ((obs, key) -> (action, extras))`; the extras must hold what the log-likelihood reads from a
            stored transition, and "log_prob", its value under this policy.
        evaluate: `parts -> ((obs, key) -> action)`.
        policy_loss: A per-example loss on the policy; reads "advantage" and "log_prob" from the example's extras.
        modes: Further ways of acting, by name.
        kl: What `target_kl` and `stop_kl` read: a closed form `(policy, example, key) -> KL(old || new)`, or the name
            of the estimate among the metrics of `policy_loss` (of `clipped`: kl or kl_k1), which costs nothing more.
        kl_floor: The adaptive rate rises only where the KL is above it: 0, or a little less for an estimate that may
            be negative.
        stages: Further stages, by name, after the epochs.

    Raises:
        ValueError: For a value out of its range, or a target KL without a KL.
    """
    settings = _settings(make_optimiser) | _settings(make_passes)
    # A KL that nothing reads is not computed.
    watching = [setting for setting in ("target_kl", "stop_kl") if settings[setting] is not None]
    if watching and kl is None:
        raise ValueError(f"{watching[0]} needs a policy with a KL, got {settings[watching[0]]!r} for {name}.")
    watched = None
    if watching:
        watched = f"policy/{kl}" if isinstance(kl, str) else "policy/divergence"
        policy_loss = measured(policy_loss, kl) if callable(kl) else _measuring(policy_loss, kl)
    warmup, estimate = settings["critic_warmup"], make_advantages()
    # At weight 0 the policy's gradient is out of the common norm, too, while the value network learns alone.
    weight = (lambda s: (s.before.updates >= warmup).astype(float)) if warmup else 1.0
    update = together(
        make_optimiser(kl=watched, kl_floor=kl_floor),
        policy=Term(make_policy, lambda s: policy_loss, weight),
        value=make_value(without_truncated=estimate.dialect == "brax"),
    )
    learn = make_passes(kl=watched, estimate=estimate, update=update)
    # What only labels the rollout is there from the start: the stages after it could not do without.
    following: dict[str, Any] = {
        called: stage if stage.owns == () else every(stage, 1, after=warmup)
        for called, stage in ({} if stages is None else stages).items()
    }
    _checks.slot(f"explore of {name}", explore, 1, "parts -> ((obs, key) -> (action, extras))")
    return algorithm(
        name,
        "on_policy",
        explore=_with_value(name, explore),
        evaluate=evaluate,
        modes=modes,
        advantages=estimate.labelled(again=settings["recompute_segment"] is not None),
        learn=learn,
        **following,
        report=reported(_report),
    )


def _measuring(loss: Loss, kl: str | None) -> Loss:
    """The loss, which must have `kl` among its metrics."""

    def with_kl(model: Model, example: Transition, key: Key) -> tuple[Scalar, Metrics]:
        value, metrics = loss(model, example, key)
        if kl not in metrics:
            raise ValueError(f"kl must be a function or a metric of policy_loss, got {kl!r}.")
        return value, metrics

    return with_kl


def _settings(block: Callable[..., Any]) -> dict[str, Any]:
    """The settings of a block as a recipe has filled them in."""
    return {name: parameter.default for name, parameter in inspect.signature(block).parameters.items()}


def _with_value(name: str, explore: Acting) -> Acting:
    """The same with the value of what is seen beside it."""

    def explore_with_value(parts: Parts) -> Callable[..., tuple[Action, dict[str, Any]]]:
        policy = explore(parts)
        _checks.slot(f"what explore of {name} returns", policy, 2, "(obs, key) -> (action, extras)")

        def act(obs: Observation, key: Key) -> tuple[Action, dict[str, Any]]:
            action, extras = _checks.paired(f"explore of {name}", policy(obs, key), "(action, extras)")
            if not isinstance(extras, dict) or "log_prob" not in extras:
                holds = ", ".join(extras) if isinstance(extras, dict) else repr(extras)
                raise ValueError(
                    f"explore of {name} must return extras with 'log_prob', got {holds or 'none'}."
                )
            return action, {**extras, "value": parts.value(obs)}

        return act

    return explore_with_value


def _report(s: Seen) -> Metrics:
    extras = s.batch.extras
    return {
        "log_prob": jnp.mean(extras["log_prob"]),
        "explained_variance": explained_variance(extras["value"].reshape(-1), extras["return"].reshape(-1)),
    }
