"""Policies extracted from values over data: likelihoods weighed by advantages, and the noised action pushed by Q."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._batch import batch_mean
from dpolicy._checks import critic, function, integer, loss_value, one_key, one_of, positive, returned
from dpolicy._types import Action, Critic, Key, Loss, Metrics, Number, Observation, Scalar
from dpolicy.fields import AbstractSchedule, convert
from dpolicy.fields._predictions import evaluate
from dpolicy.losses.match import Chain, Transform, chain, same_schedule, start
from dpolicy.losses.pathwise import denoised
from dpolicy.losses.times import TimeLaw

# Stream of the key that no link of a chain draws from, nor the choice of a critic.
_DRAWS = 2**30 + 1


def cloning(log_likelihood: Callable[[Any, Any, Key], Array]) -> Loss:
    """-log pi(a | s) of the data's action: behaviour cloning of a policy that has a density.

    Args:
        log_likelihood: (model, example, key) -> log-density, such as `gaussian_log_likelihood`.

    Examples:
        >>> policy = dp.Gaussian(1, 2, hidden=(4,), initial_std=1.0, final_scale=0.0, key=key)
        >>> print(f"{cloning(gaussian_log_likelihood)(policy, example, key)[0]:.3f}")
        1.938
    """
    function("log_likelihood", log_likelihood, "(model, example, key) -> scalar")

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        value = -returned("log_likelihood", log_likelihood(model, example, key))
        return value, {"loss": value}

    return loss


def imitating(sampler: Callable[[Any, Observation, Key], Action], *, reduction: str = "mean") -> Loss:
    """reduce_a (sampler(model, s) - a)^2: behaviour cloning of a policy by the distance of its action from the data's.

    Of a deterministic policy the optimum is the mean of the data's actions. TD3+BC (arXiv 2106.06860) has the mean over
    the action's dimensions, ReBRAC (2305.09836) the sum.

    Args:
        sampler: (model, obs, key) -> action, differentiable in the model, as for `bptt`.
        reduction: Over the dimensions of the action: mean or sum.

    Examples:
        >>> print(imitating(lambda gain, obs, key: gain * obs * jnp.ones(2))(jnp.array(1.0), example, key)[0])
        0.45
    """
    function("sampler", sampler, "(model, obs, key) -> action")
    one_of("reduction", reduction, ("mean", "sum"))

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        action = returned("sampler", sampler(model, example.obs, key), example.action.shape)
        square = (action - example.action) ** 2
        result = jnp.mean(square) if reduction == "mean" else jnp.sum(square)
        return result, {"loss": result}

    return loss


def trust_region(sampler: Callable[[Any, Observation, Key], Action], field: Any, fit: Loss) -> Loss:
    r"""The loss of a behaviour's field at the policy's own action, for the policy: DTQL (arXiv 2405.19690, eq. 4).

    $$ L(\pi) = E_{a \sim \pi, t, \epsilon}\, c(t) |D_\nu(a + \sigma_t \epsilon, t, s) - a|^2, $$

    whose parameters are the policy's: the field is a constant, and the gradient passes the noised action and the
    target. Its descent leads to the modes of nu. Of nu = N(m, v) and a field of its noise it is, but for a constant,
    E (alpha_t sigma_t / S_t)^2 |a - m|^2 with S_t = alpha_t^2 v + sigma_t^2: the optimum is m itself, of no width.

    Args:
        sampler: (model, obs, key) -> action, differentiable in the model, as for `bptt`.
        field: Of the behaviour.
        fit: What it was fitted by, not `held`: matching(perturb(schedule), held=False).

    Examples:
        >>> fit = matching(perturb(schedule), held=False)
        >>> loss = trust_region(lambda gain, obs, key: gain * obs * jnp.ones(2), field, fit)
        >>> print(loss(jnp.array(1.0), example, key)[0].shape)
        ()
    """
    function("sampler", sampler, "(model, obs, key) -> action")
    function("fit", fit, "(field, example, key) -> (scalar, metrics)")

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        sample_key, fit_key = jax.random.split(one_key(key))
        action = returned("sampler", sampler(model, example.obs, sample_key), example.action.shape)
        result, _ = loss_value("fit", fit(field, dataclasses.replace(example, action=action), fit_key))
        return result, {"loss": result}

    return loss


def exponential_advantage(
    q: Critic, value: Callable[[Any], Scalar], temperature: Number, *, largest: Number = 100.0
) -> Callable[[Any], Scalar]:
    """The weight of an example, min(exp((q(s, a) - value(s)) / temperature), largest); for `weighted`.

    The policy that minimises the weighted likelihood is nu exp((q - value) / temperature), normalised:
    advantage-weighted regression (arXiv 1910.00177), as IQL has it (arXiv 2110.06169, eq. 7, with temperature 1 /
    beta).

    Args:
        q: The critic.
        value: obs -> scalar, the baseline.
        temperature: In units of q; above 0.
        largest: Bound on the weight.

    Examples:
        >>> weight = exponential_advantage(q, lambda obs: jnp.array(-0.2), 0.1)
        >>> print(f"{weight(example):.2f}")
        1.00
    """
    critic("q", q)
    function("value", value, "obs -> scalar")
    positive("temperature", temperature)
    positive("largest", largest)

    def weight(example: Any) -> Scalar:
        gap = returned("q", q(example.obs, example.action)) - returned("value", value(example.obs))
        # Bounded before it is raised, so that no weight overflows.
        return jax.lax.stop_gradient(jnp.exp(jnp.minimum(gap / temperature, jnp.log(largest))))

    return weight


def critic_regularised(
    log_likelihood: Callable[[Any, Any, Key], Scalar],
    draw: Callable[[Any, Any, Key], Float[Array, "n a"]],
    q: Critic,
    temperature: Number,
    *,
    largest: Number = 20.0,
) -> Loss:
    r"""Likelihoods weighed by advantages over actions of the policy itself (CRR, arXiv 2006.15134, exp with a mean).

    $$ L = -\min(e^{A / \lambda}, w_{max}) \log \pi(a | s), \qquad
       A = Q(s, a) - \mathrm{mean}_j Q(s, a_j), \quad a_j \sim \pi. $$

    Args:
        log_likelihood: (model, example, key) -> log pi of the data's action.
        draw: (model, example, key) -> actions of the policy, given the same key.
        q: The critic.
        temperature: lambda, in units of q; above 0.
        largest: Bound on the weight.

    Examples:
        >>> draw = lambda model, example, key: jnp.zeros((3, 2))
        >>> loss = critic_regularised(lambda model, example, key: model, draw, q, 0.1)
        >>> print(f"{loss(jnp.array(-2.0), example, key)[0]:.3f}")
        0.271
    """
    function("log_likelihood", log_likelihood, "(model, example, key) -> scalar")
    function("draw", draw, "(model, example, key) -> actions")
    critic("q", q)
    positive("temperature", temperature)
    positive("largest", largest)

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        value = lambda action: returned("q", q(example.obs, action))
        gap = value(example.action) - jnp.mean(jax.vmap(value)(draw(model, example, key)))
        weight = jax.lax.stop_gradient(jnp.exp(jnp.minimum(gap / temperature, jnp.log(largest))))
        result = -weight * returned("log_likelihood", log_likelihood(model, example, key))
        return result, {"loss": result, "weight": weight}

    return loss


def one_step_log_likelihood(
    schedule: AbstractSchedule, *, times: str | TimeLaw = "uniform", clip: float | None = 1.0
) -> Callable[[Any, Any, Key], Scalar]:
    """(field, example, key) -> -|a - x0_hat|^2 / 2, in the place of a log-density that a field has not.

    log N(a; x0_hat, I) up to a constant, x0_hat what the field makes of the noised action in one step (`denoised`):
    with it methods that weigh likelihoods are methods for fields (EDP, arXiv 2305.20081). Summed over the action's
    coordinates, where `matching` has their mean unless told otherwise.

    Examples:
        >>> constant = lambda x, t, obs: jnp.array([0.5, 0.5])
        >>> half = dp.FunctionField(constant, schedule=schedule, prediction="data", action_size=2)
        >>> print(f"{cloning(one_step_log_likelihood(schedule))(half, example, key)[0]:.2f}")
        0.45
    """
    step = denoised(schedule, times=times, clip=clip)

    def log_likelihood(field: Any, example: Any, key: Key) -> Scalar:
        return -jnp.sum((example.action - step(field, example, key)) ** 2) / 2

    return log_likelihood


def one_step_draws(
    schedule: AbstractSchedule, n: int, *, times: str | TimeLaw = "uniform", clip: float | None = 1.0
) -> Callable[[Any, Any, Key], Float[Array, "n a"]]:
    """(field, example, key) -> n actions of N(x0_hat, I), the law of `one_step_log_likelihood`; not clipped.

    Examples:
        >>> print(one_step_draws(schedule, 3)(field, example, key).shape)
        (3, 2)
    """
    integer("n", n)
    step = denoised(schedule, times=times, clip=clip)

    def draw(field: Any, example: Any, key: Key) -> Float[Array, "n a"]:
        centre = step(field, example, key)
        noise_key = jax.random.fold_in(one_key(key), _DRAWS)
        return centre[None] + jax.random.normal(noise_key, (n, *centre.shape), centre.dtype)

    return draw


def noisy_q(transform: Transform, q: Critic, *, normaliser: Critic | None = None) -> Loss:
    r"""The noise prediction is pushed down the gradient of Q at the noised action (DAC, arXiv 2405.20555, code).

    $$ L = \mathrm{mean}_a\, \sigma_t\, G(x_t)\, \epsilon_\theta(x_t, t, s), \qquad
       G = \nabla_a Q(s, a)|_{a = x_t} / \mathrm{mean}_{batch} |Q(s, a)|. $$

    G is a constant for the field. Beside eta times the matching loss on the same (t, x_t) the minimiser is the noise
    E[eps | x_t] - sigma_t G / (2 eta), which is `add_q_score` with the scale 1 / (2 eta); as a term of its own it
    leaves the fit to the data readable in the metrics.

    Args:
        transform: What noises the data's action, such as `perturb(schedule)`; a chain of that.
        q: The critic whose gradient is taken.
        normaliser: Its mean size over the batch, at the data's actions, divides G; None for no division.

    Examples:
        >>> noise = perturb(schedule)
        >>> value, metrics = noisy_q(noise, q)(field, example, key)
        >>> print(value.shape, sorted(metrics))
        () ['loss', 'slope']
    """
    critic("q", q)
    if normaliser is not None:
        critic("normaliser", normaliser)
    links = transform if isinstance(transform, Chain) else chain(transform)

    def loss(field: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        match = jax.lax.stop_gradient(links(example, start(example), key))
        schedule = same_schedule(match, field)
        x, t = match.x[0], match.t[0]
        slope = jax.grad(lambda action: returned("q", q(example.obs, action)))(x)
        if normaliser is not None:
            size = batch_mean(jnp.abs(returned("normaliser", normaliser(example.obs, example.action))))
            slope = slope / (size + 1e-6)
        prediction = evaluate(field, x, t, example.obs)
        noise = convert(prediction, x, t, schedule=schedule, source=field.prediction, target="noise")
        slope = jax.lax.stop_gradient(slope)
        result = jnp.mean(schedule.sigma(t) * slope * noise)
        return result, {"loss": result, "slope": jnp.mean(jnp.abs(slope))}

    return loss
