"""Losses that differentiate a value through the action: through a sampler, or through one denoising step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._batch import batch_mean, batch_sum
from dpolicy._checks import critic, function, non_negative, one_key, paired, positive, returned
from dpolicy._select import weighed
from dpolicy._types import Action, Critic, Key, Loss, Metrics, Number, Observation, Scalar
from dpolicy.fields import AbstractSchedule, convert
from dpolicy.fields._predictions import evaluate
from dpolicy.losses.match import chain, start
from dpolicy.losses.noise import perturb
from dpolicy.losses.times import TimeLaw

# Stream of the key that no link of a chain draws from (theirs are 0, 1, 2, ...).
_CHOICE = 2**30


def _check_critics(q: Any, normaliser: Any) -> None:
    critic("q", q)
    if normaliser is not None:
        critic("normaliser", normaliser)


def _ascend_value(
    q: Critic, normaliser: Critic | None, obs: Observation, action: Action
) -> tuple[Scalar, Metrics]:
    value = returned("q", q(obs, action))
    result = -value
    if normaliser is not None:
        size = batch_mean(jnp.abs(returned("normaliser", normaliser(obs, jax.lax.stop_gradient(action)))))
        # Without gradient, or Q could be made larger by making its scale smaller.
        result = result / jnp.maximum(jax.lax.stop_gradient(size), 1e-6)
    return result, {"loss": result, "value": value}


def bptt(
    sampler: Callable[[Any, Observation, Key], Action], q: Critic, *, normaliser: Critic | None = None
) -> Loss:
    """-Q(s, sample(model, s)): ascent of Q through the whole sampling chain, its noise held fixed.

    Args:
        sampler: (model, obs, key) -> action, differentiable in the model: a sampler of a field, or any
            reparameterised policy, e.g. `lambda policy, obs, key: policy.mode(obs)`.
        q: The critic that is ascended; (obs, action) -> scalar.
        normaliser: When given, the loss is divided by the batch mean of |normaliser(s, a)|, without gradient, so
            that the scale of rewards drops out. Diffusion-QL (arXiv 2208.06193) takes the other critic of the pair.

    Examples:
        >>> loss = bptt(lambda gain, obs, key: gain * obs, q)
        >>> print(loss(jnp.array(4.0), example, key)[0])
        4.0
        >>> flow = bptt(dp.samplers.ode(steps=2), q)
        >>> print(flow(field, example, key)[0].shape)
        ()
    """
    function("sampler", sampler, "(model, obs, key) -> action")
    _check_critics(q, normaliser)

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        return _ascend_value(q, normaliser, example.obs, sampler(model, example.obs, key))

    return loss


def bptt_of_either(
    sampler: Callable[[Any, Observation, Key], Action],
    critic: Callable[[Observation, Action], Float[Array, " n"]],
) -> Loss:
    """`bptt` of one member of an ensemble, normalised by the mean size of the next: L = -Q_j(s, a) / mean |Q_k(s, a)|.

    j is drawn once for the whole batch, k is the one after it: of two critics, which of them is climbed and which of
    them measures. Source: Diffusion-QL (arXiv 2208.06193), code.

    Args:
        sampler: (model, obs, key) -> action, differentiable in the model.
        critic: The ensemble, (obs, action) -> values.

    Examples:
        >>> pair = lambda obs, action: jnp.stack([q(obs, action), 2 * q(obs, action)])
        >>> loss = bptt_of_either(lambda gain, obs, key: gain * obs, pair)
        >>> print(sorted({float(loss(jnp.array(4.0), example, jax.random.key(i))[0]) for i in range(8)}))
        [0.5, 2.0]
    """
    function("sampler", sampler, "(model, obs, key) -> action")
    function("critic", critic, "(obs, action) -> values")

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        sample_key, choice_key = jax.random.split(one_key(key))
        member = _members(critic, choice_key)
        return bptt(sampler, member(0), normaliser=member(1))(model, example, sample_key)

    return loss


def _members(
    critic: Callable[[Observation, Action], Float[Array, " n"]], key: Key
) -> Callable[[int], Critic]:
    """One member of an ensemble, drawn once for the whole batch, and those after it."""
    # A sum of uniform numbers, without its integral part, is uniform, and the same for every example.
    choice = batch_sum(jax.random.uniform(key)) % 1

    def member(shift: int) -> Critic:
        def value(obs: Observation, action: Action) -> Scalar:
            values = critic(obs, action)
            size = values.shape[0]
            return values[(jnp.floor(choice * size).astype(int) + shift) % size]

        return value

    return member


def denoised(
    schedule: AbstractSchedule, *, times: str | TimeLaw = "uniform", clip: float | None = 1.0
) -> Callable[[Any, Any, Key], Action]:
    """(field, example, key) -> x0_hat, what the field makes of the noised data action in one step (EDP, 2305.20081).

    x_t = alpha a + sigma eps, and x0_hat is the field's data prediction there, clipped to [-clip, clip], with no
    gradient where the clip is active. It draws as `matching(perturb(schedule))` does. Near t = 0 x0_hat is the action,
    far from it the mean of those that x_t may have come from.

    Examples:
        >>> constant = lambda x, t, obs: jnp.array([0.5, 1.5])
        >>> half = dp.FunctionField(constant, schedule=schedule, prediction="data", action_size=2)
        >>> print(denoised(schedule)(half, example, key))
        [0.5 1. ]
    """
    if clip is not None:
        positive("clip", clip)
    # As a chain, so that in `sharing` it sees the noised action that `matching` sees.
    noise = chain(perturb(schedule, times=times))

    def step(field: Any, example: Any, key: Key) -> Action:
        match = noise(example, start(example), key)
        x, t = jax.lax.stop_gradient((match.x[0], match.t[0]))
        value = evaluate(field, x, t, example.obs)
        # At an end where nothing converts to an action, as it would just before.
        t = jnp.clip(t, *schedule.span(field.prediction))
        action = convert(value, x, t, schedule=schedule, source=field.prediction, target="data")
        return action if clip is None else jnp.clip(action, -clip, clip)

    return step


def one_step(
    schedule: AbstractSchedule,
    q: Critic,
    *,
    times: str | TimeLaw = "uniform",
    clip: float | None = 1.0,
    normaliser: Critic | None = None,
) -> Loss:
    """-Q(s, x0_hat): ascent of Q through one denoising step of the noised data action, `denoised` (EDP, 2305.20081).

    Examples:
        >>> constant = lambda x, t, obs: jnp.array([0.5, 0.5])
        >>> half = dp.FunctionField(constant, schedule=schedule, prediction="data", action_size=2)
        >>> print(one_step(schedule, q)(half, example, key)[0])
        0.5
    """
    _check_critics(q, normaliser)
    step = denoised(schedule, times=times, clip=clip)

    def loss(field: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        return _ascend_value(q, normaliser, example.obs, step(field, example, key))

    return loss


def one_step_of_either(
    schedule: AbstractSchedule,
    critic: Callable[[Observation, Action], Float[Array, " n"]],
    *,
    times: str | TimeLaw = "uniform",
    clip: float | None = 1.0,
) -> Loss:
    """`one_step` of one member of an ensemble over its own mean size: L = -Q_j(s, x0_hat) / mean |Q_j(s, x0_hat)|.

    j is drawn once for the whole batch. Source: EDP (arXiv 2305.20081), code, where `bptt_of_either` has the next
    member's size.

    Args:
        schedule: The field's.
        critic: The ensemble, (obs, action) -> values.
        times: Law of the times; see `perturb`.
        clip: Bound of x0_hat.

    Examples:
        >>> constant = lambda x, t, obs: jnp.array([0.5, 0.5])
        >>> half = dp.FunctionField(constant, schedule=schedule, prediction="data", action_size=2)
        >>> pair = lambda obs, action: jnp.stack([q(obs, action), 2 * q(obs, action)])
        >>> values = [one_step_of_either(schedule, pair)(half, example, jax.random.key(i)) for i in range(8)]
        >>> print({float(value) for value, _ in values}, sorted({float(m["value"]) for _, m in values}))
        {1.0} [-1.0, -0.5]
    """
    function("critic", critic, "(obs, action) -> values")
    step = denoised(schedule, times=times, clip=clip)

    def loss(field: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        q = _members(critic, jax.random.fold_in(one_key(key), _CHOICE))(0)
        return _ascend_value(q, q, example.obs, step(field, example, key))

    return loss


def soft_value(
    sample: Callable[[Any, Observation, Key], tuple[Action, Scalar]], q: Critic, temperature: Number
) -> Loss:
    """temperature * log p(a | s) - Q(s, a) at a reparameterised sample: SAC's policy loss (arXiv 1801.01290).

    `sample(model, obs, key)` returns (action, log-probability).

    Examples:
        >>> sample = lambda gain, obs, key: (gain * obs, jnp.array(-3.0))
        >>> print(soft_value(sample, q, 0.5)(jnp.array(4.0), example, key)[0])
        2.5
    """
    function("sample", sample, "(model, obs, key) -> (action, log_prob)")
    critic("q", q)
    non_negative("temperature", temperature)

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        action, log_prob = paired("sample", sample(model, example.obs, key), "(action, log_prob)")
        returned("sample, as log_prob,", log_prob)
        value = returned("q", q(example.obs, action))
        result = weighed(temperature, log_prob) - value
        return result, {"loss": result, "value": value, "entropy": -log_prob}

    return loss
