"""The on-policy combinator: clipped-surrogate updates around any log-likelihood."""

from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from dpolicy import _checks
from dpolicy._advantages import NORMALISATIONS, Advantages
from dpolicy._types import Action, Key, Loss, Metrics, Mode, Model, Number, Observation, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.learner import Learner, adam, descend, keep_if, learner, scaled
from dpolicy.losses import (
    GAE_DIALECTS,
    adaptive_rate,
    add,
    batched,
    clipped_value_loss,
    explained_variance,
    on,
)
from dpolicy.minibatches import in_segments, over_minibatches
from dpolicy.networks import ACTIVATIONS, ValueNetwork
from dpolicy.networks._mlp import check_network, check_residual
from dpolicy.recipe import tunable

# Draws the action for the environment, `(policy, extra, obs, key, mode) -> (action, extras)`; under "explore" the
# extras must hold what the log-likelihood reads from a stored transition, and "log_prob", its value under `policy`.
Propose: TypeAlias = Callable[[Model, Any, Observation, Key, Mode], tuple[Action, dict[str, Any]]]
# Whatever the method does after the clipped epochs: `(policy, extra, examples, key) -> (extra, metrics)`.
Afterwards: TypeAlias = Callable[[Model, Any, Transition, Key], tuple[Any, Metrics]]


def _parts(model: Model) -> Model:
    """Which of the two networks each parameter of a `PolicyValue` belongs to."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].name, model)


# Stream of a minibatch's key that no example has (theirs are 0, 1, 2, ...).
_KL = 2**30


class PolicyValue(eqx.Module):
    """The parameters one proximal optimiser trains."""

    policy: Model
    value: ValueNetwork


class Proximal(eqx.Module):
    """Everything a proximal algorithm carries between iterations; `extra` belongs to the method."""

    learner: Learner[PolicyValue]
    learning_rate: Float[Array, "*seeds"]
    extra: Any
    iterations: Int[Array, "*seeds"]


def acted(obs: Observation, action: Action, extras: dict[str, Any]) -> Transition:
    """A transition as far as it is known while acting, for the log-likelihood that is stored with it."""
    no, zero = jnp.asarray(False), jnp.zeros(())
    return Transition(obs, action, zero, obs, no, no, extras)


@tunable(
    "learning_rate",
    "value_learning_rate",
    "learning_rate_floor",
    "learning_rate_warmup",
    "learning_rate_cycle",
    "weight_decay",
    "target_kl",
    "stop_kl",
    "discount",
    "trace",
    "gae_dialect",
    "recompute_segment",
    "normalise_advantages",
    "advantage_low_quantile",
    "advantage_high_quantile",
    "advantage_clip",
    "value_coefficient",
    "value_clip",
    "epochs",
    "minibatches",
    "critic_warmup",
    "max_grad_norm",
    "value_hidden",
    "value_activation",
    "value_residual",
    "activation",
    "initialisation",
)
def proximal(
    *,
    name: str,
    make_policy: Callable[[Key, Any], Model],
    propose: Propose,
    policy_loss: Loss,
    kl: str | Callable[[Model, Transition, Key], Float[Array, ""]] | None = None,
    kl_floor: Number = 0.0,
    make_extra: Callable[[Key, Any, Model], Any] = lambda key, spec, policy: (),
    afterwards: Afterwards = lambda policy, extra, examples, key: (extra, {}),
    modes: tuple[str, ...] = ("explore", "evaluate"),
    value_hidden: tuple[int, ...] = (256, 256),
    value_activation: str | None = None,
    value_residual: bool = False,
    activation: str = "elu",
    initialisation: str = "torch",
    learning_rate: Number = 1e-3,
    value_learning_rate: Number | None = None,
    learning_rate_floor: Number = 1.0,
    learning_rate_warmup: int = 10,
    learning_rate_cycle: int = 1_000,
    weight_decay: Number | None = None,
    target_kl: Number | None = None,
    stop_kl: Number | None = None,
    discount: Number = 0.99,
    trace: Number = 0.95,
    gae_dialect: str = "exact",
    recompute_segment: int | None = None,
    normalise_advantages: str = "rollout",
    advantage_low_quantile: Number | None = None,
    advantage_high_quantile: Number | None = None,
    advantage_clip: Number | None = None,
    value_coefficient: Number = 1.0,
    value_clip: Number | None = None,
    epochs: int = 5,
    minibatches: int = 4,
    critic_warmup: int = 0,
    max_grad_norm: Number = 1.0,
) -> Algorithm:
    """PPO's outer loop with slots for the policy, its log-likelihood and what follows the clipped epochs.

    One iteration on a rollout [time, environment]: advantages and returns by GAE, advantages normalised, then `epochs`
    passes over `minibatches` shuffled minibatches of

        loss = policy_loss + value_coefficient * value_loss

    with Adam under a global gradient-norm clip, its rate fixed or adapted to the KL of the minibatch about to be
    trained on; then `afterwards`.

    Args:
        name: The algorithm's name.
        make_policy: `(key, spec) -> policy`, the module `policy_loss` differentiates.
        propose: How the policy acts; see `Propose`.
        policy_loss: A per-example loss on the policy; reads "advantage" and "log_prob" from the example's extras.
        kl: What `target_kl` and `stop_kl` read: a closed form `(policy, example, key) -> KL(old || new)`, or the name
            of the estimate among the metrics of `policy_loss` (of `clipped`: kl or kl_k1), which costs nothing more.
        kl_floor: The adaptive rate rises only where the KL is above it: 0, or a little less for an estimate that may
            be negative.
        make_extra: `(key, spec, policy) -> extra`, further state that belongs to the method.
        afterwards: Runs once per iteration after the epochs; see `Afterwards`.
        modes: Acting modes that `propose` knows.
        value_hidden: Widths of the value network.
        value_activation: Its activation; None for that of the other networks.
        value_residual: Whether its pairs of hidden layers have a shortcut; the widths must be equal, and odd in number.
        activation: Activation of the networks.
        initialisation: Of the weights: torch (RSL-RL's), orthogonal, lecun_normal, lecun_uniform, he_normal or
            xavier_uniform.
        learning_rate: Adam's rate, or its start where it adapts.
        value_learning_rate: Rate of the value network where it has one of its own, which then does not adapt.
        learning_rate_floor: Smallest factor on both rates, where a cycle of warm-up and cosine starts and ends; 1 keeps
            them constant (DPPO, arXiv 2409.00588, whose warm-up and cycle the next two are).
        learning_rate_warmup: Iterations at the start of a cycle over which that factor rises to 1.
        learning_rate_cycle: Iterations of a cycle, warm-up included; then the next one starts.
        weight_decay: Decoupled weight decay; None for none.
        target_kl: Target of the adaptive rate; None keeps the rate fixed.
        stop_kl: The rest of an iteration is skipped once the KL of a minibatch exceeds it; None for never.
        discount: Discount gamma.
        trace: Trace lambda of generalised advantage estimation.
        gae_dialect: exact, rsl, brax or leaky: how advantages treat time limits; under brax truncated steps do not
            enter the value loss either.
        recompute_segment: Compute advantages and returns anew for every minibatch, with the value network as it then
            is, along segments of this many steps, of which minibatches are then made (Brax); None for once per rollout.
        normalise_advantages: Standardise advantages over the rollout, over each minibatch, or none.
        advantage_low_quantile: Advantages of a minibatch below this quantile of theirs are raised to it (DPPO); None
            for none.
        advantage_high_quantile: Those above this one are lowered to it; None for none.
        advantage_clip: Bound of the advantages after that; None for none.
        value_coefficient: Weight of the value loss.
        value_clip: Largest change of a value per iteration before its loss flattens; None switches that off.
        epochs: Passes over each rollout.
        minibatches: Minibatches per pass; must divide the samples of a rollout.
        critic_warmup: Iterations at the start that train the value network alone; the policy, its optimiser, the
            adaptive rate and what follows the epochs wait.
        max_grad_norm: Largest global gradient norm.

    Raises:
        ValueError: for a value out of its range, or a target KL without a KL.
    """
    check_network(activation, initialisation, value_hidden=value_hidden)
    check_residual(value_residual, value_hidden=value_hidden)
    if value_activation is not None:
        _checks.one_of("value_activation", value_activation, ACTIVATIONS)
    _checks.positive("learning_rate", learning_rate)
    _checks.fraction("discount", discount)
    _checks.fraction("trace", trace)
    _checks.one_of("gae_dialect", gae_dialect, GAE_DIALECTS)
    _checks.non_negative("value_coefficient", value_coefficient)
    if recompute_segment is not None:
        _checks.integer("recompute_segment", recompute_segment)
        if normalise_advantages == "rollout":
            raise ValueError(
                "normalise_advantages must be minibatch or none where advantages are recomputed for every minibatch, "
                "got 'rollout'."
            )
    _checks.integer("epochs", epochs)
    _checks.integer("minibatches", minibatches)
    _checks.integer("critic_warmup", critic_warmup, 0)
    _checks.fraction("learning_rate_floor", learning_rate_floor)
    _checks.integer("learning_rate_cycle", learning_rate_cycle)
    _checks.integer("learning_rate_warmup", learning_rate_warmup, 0, learning_rate_cycle - 1)
    for setting, value in (
        ("advantage_low_quantile", advantage_low_quantile),
        ("advantage_high_quantile", advantage_high_quantile),
    ):
        if value is not None:
            _checks.fraction(setting, value)
    _checks.ordered(
        "advantage_low_quantile", advantage_low_quantile, "advantage_high_quantile", advantage_high_quantile
    )
    _checks.one_of("normalise_advantages", normalise_advantages, NORMALISATIONS)
    _checks.positive("max_grad_norm", max_grad_norm)
    for setting, value in (
        ("value_learning_rate", value_learning_rate),
        ("advantage_clip", advantage_clip),
        ("value_clip", value_clip),
        ("target_kl", target_kl),
        ("stop_kl", stop_kl),
    ):
        if value is not None:
            _checks.positive(setting, value)
            if setting.endswith("_kl") and kl is None:
                raise ValueError(f"{setting} needs a policy with a KL, got {value!r} for {name}.")
    optimiser = adam(None, max_grad_norm=max_grad_norm, weight_decay=weight_decay)
    if critic_warmup > 0:
        # Adam counts its steps: those of a policy that waits must not be counted.
        each = adam(None, weight_decay=weight_decay)
        optimiser = optax.chain(
            optax.clip_by_global_norm(max_grad_norm), optax.partition({"policy": each, "value": each}, _parts)
        )

    cosine = optax.warmup_cosine_decay_schedule(
        learning_rate_floor, 1.0, learning_rate_warmup, learning_rate_cycle, learning_rate_floor
    )

    advantages = Advantages(
        discount,
        trace,
        gae_dialect,
        normalise_advantages,
        advantage_low_quantile,
        advantage_high_quantile,
        advantage_clip,
    )
    watched = None if target_kl is None and stop_kl is None else kl

    def factor(iterations: Int[Array, ""]) -> Float[Array, ""]:
        return cosine(iterations % learning_rate_cycle)  # pyright: ignore[reportReturnType]

    def value_loss(value: ValueNetwork, example: Transition, key: Key) -> tuple[Float[Array, ""], Metrics]:
        old, target, now = example.extras["value"], example.extras["return"], value(example.obs)
        loss = (now - target) ** 2 if value_clip is None else clipped_value_loss(now, old, target, value_clip)
        if gae_dialect == "brax":
            loss = jnp.where(example.truncated, 0, loss)
        return loss, {"loss": loss}

    def loss(policy_coefficient: Number) -> Loss:
        return batched(
            add(
                policy=(policy_coefficient, on(lambda model: model.policy, policy_loss)),
                value=(value_coefficient, on(lambda model: model.value, value_loss)),
            )
        )

    def init(key: Key, spec: Any) -> Proximal:
        policy_key, value_key, extra_key = jax.random.split(_checks.one_key(key), 3)
        value = ValueNetwork(
            spec.obs_size,
            hidden=value_hidden,
            activation=activation if value_activation is None else value_activation,
            initialisation=initialisation,
            residual=value_residual,
            key=value_key,
        )
        policy = make_policy(policy_key, spec)
        return Proximal(
            learner=learner(PolicyValue(policy, value), optimiser),
            learning_rate=jnp.asarray(learning_rate, float),
            extra=make_extra(extra_key, spec, policy),
            iterations=jnp.zeros((), jnp.int32),
        )

    def act(state: Proximal, obs: Observation, key: Key, mode: Mode) -> tuple[Action, dict[str, Any]]:
        _checks.one_of("mode", mode, modes)
        model = state.learner.model
        action, extras = propose(model.policy, state.extra, obs, _checks.one_key(key), mode)
        return action, {**extras, "value": model.value(obs)} if mode == "explore" else extras

    def update(state: Proximal, batch: Transition, key: Key) -> tuple[Proximal, Metrics]:
        epochs_key, afterwards_key = jax.random.split(_checks.one_key(key))
        batch = advantages.read(batch)
        examples = advantages.labelled(state.learner.model.value, batch.extras["value"], batch)
        segments = examples if recompute_segment is None else in_segments(batch, recompute_segment)
        warm = jnp.asarray(True) if critic_warmup == 0 else state.iterations >= critic_warmup
        # The policy's cycle starts when the policy does.
        policy_factor = factor(jnp.maximum(state.iterations - critic_warmup, 0))
        value_factor = factor(state.iterations)

        def body(carry: Any, inputs: tuple[Transition, Key]) -> tuple[Any, Metrics]:
            current, rate, going = carry
            minibatch, key = inputs
            if recompute_segment is not None:
                minibatch = advantages.relabelled(current.model.value, minibatch)
            minibatch = advantages.shaped(minibatch)

            def measured(model: PolicyValue) -> tuple[Float[Array, ""], Metrics]:
                value, metrics = loss(1.0 if critic_warmup == 0 else warm.astype(float))(
                    model, minibatch, key
                )
                if isinstance(watched, str):
                    if f"policy/{watched}" not in metrics:
                        raise ValueError(
                            f"kl must be a function or a metric of policy_loss, got {watched!r}."
                        )
                    metrics = {**metrics, "kl": metrics[f"policy/{watched}"]}
                elif watched is not None:
                    keys = jax.random.split(jax.random.fold_in(key, _KL), minibatch.reward.shape[0])
                    several = jax.vmap(watched, in_axes=(None, 0, 0))(model.policy, minibatch, keys)
                    metrics = {**metrics, "kl": jnp.mean(several)}
                return value, metrics

            def adapted(metrics: Metrics) -> Number:
                if target_kl is None:
                    return rate
                return jnp.where(warm, adaptive_rate(rate, metrics["kl"], target_kl, floor=kl_floor), rate)

            def step(updates: PolicyValue, metrics: Metrics) -> PolicyValue:
                rate = adapted(metrics)
                policy = scaled(updates.policy, -jnp.where(warm, policy_factor * rate, 0.0))
                of_value = rate if value_learning_rate is None else value_learning_rate
                return PolicyValue(policy, scaled(updates.value, -value_factor * of_value))

            after, metrics = descend(current, measured, optimiser, learning_rate=step)
            if critic_warmup > 0:
                waiting = lambda learner: learner.opt_state[1].inner_states["policy"]
                after = eqx.tree_at(waiting, after, keep_if(warm, waiting(current), waiting(after)))
            if stop_kl is not None:
                going = going & (metrics["kl"] <= stop_kl)
                after = keep_if(going, current, after)
                metrics["stopped"] = 1.0 - going.astype(float)
            return (after, adapted(metrics), going), metrics

        carry = (state.learner, state.learning_rate, jnp.asarray(True))
        (trained, rate, _), metrics = over_minibatches(
            body,
            carry,
            segments,
            epochs_key,
            epochs=epochs,
            count=minibatches,
            of="samples" if recompute_segment is None else "segments",
        )
        extra, more = afterwards(trained.model.policy, state.extra, examples, afterwards_key)
        if critic_warmup > 0:
            extra = keep_if(warm, state.extra, extra)
        metrics = {
            **metrics,
            **more,
            "learning_rate": policy_factor * rate,
            "log_prob": jnp.mean(batch.extras["log_prob"]),
            "explained_variance": explained_variance(examples.extras["value"], examples.extras["return"]),
        }
        return Proximal(trained, rate, extra, state.iterations + 1), metrics

    return Algorithm(name, "on_policy", init, act, update, modes)
