"""Exploration whose noise holds the entropy of what a policy does, as its samples tell it."""

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._batch import BATCH_AXIS
from dpolicy._settings import Count, Finite, Positive, at_least, one_of
from dpolicy._types import Key, Number, Scalar
from dpolicy.blocks._bootstrap import Policy
from dpolicy.blocks._critics import noisy, within_box
from dpolicy.blocks._field_policy import FieldPolicy
from dpolicy.blocks._noisy_best import Behaviour
from dpolicy.learning import Parts, Seen, Stage, Tuned, every, tuned
from dpolicy.losses import gaussian_fit_entropy, knn_entropy, mixture_entropy
from dpolicy.optimisers import Learner, adam
from dpolicy.recipe import tunable

# The entropy of a policy's samples in one state, `(points [n, d], key, components) -> nats`.
ENTROPIES: dict[str, Callable[[Float[Array, "n d"], Key, int], Scalar]] = {
    "mixture": lambda points, key, k: mixture_entropy(points, key, components=k),
    "mixture_value": lambda points, key, k: mixture_entropy(points, key, how="monte_carlo", components=k),
    "gaussian": lambda points, key, k: gaussian_fit_entropy(points),
    "neighbours": lambda points, key, k: knn_entropy(points),
}


def tuned_by_samples(
    start: Number,
    estimate: Callable[[Seen, Key], Scalar],
    target: Callable[[Seen], Number],
    learning_rate: Number,
) -> Stage:
    """A positive number that holds an entropy which is estimated from samples: it rises while that is below its target.

    Adam descends log(number) (H - target). The metrics are the number and "entropy".

    Args:
        start: Of the number.
        estimate: `(seen, key) -> H`.
        target: `seen -> entropy` to be held.
        learning_rate: Adam's, for the logarithm.
    """
    optimiser = adam(learning_rate)

    def step(part: Any, seen: Seen, key: Key) -> Any:
        entropy = estimate(seen, key)
        part, added, metrics = dual(lambda s: entropy - target(s)).step(part, seen, key)
        return part, added, {**metrics, "entropy": entropy}

    def dual(slack: Callable[[Seen], Scalar]) -> Stage:
        return tuned(start, slack, optimiser)

    return Stage(dual(lambda s: jnp.zeros(())).start, step)


def held_within(stage: Stage, low: Number | None = None, high: Number | None = None) -> Stage:
    """The stage of a tuned number, which is held where a step goes beyond a bound.

    Args:
        stage: As `tuned` makes it, or `tuned_by_samples`.
        low: What the number is held at where it would fall below; None for no bound.
        high: The same above.

    Raises:
        ValueError: For something that is no stage, and bounds that are not above zero or in the wrong order.
    """
    _checks.instance("stage", stage, Stage, "a Stage")
    for name, bound in (("low", low), ("high", high)):
        if bound is not None:
            _checks.positive(name, bound)
    _checks.ordered("low", low, "high", high)
    if low is None and high is None:
        return stage

    def step(part: Tuned, seen: Seen, key: Key) -> Any:
        part, added, metrics = stage.step(part, seen, key)
        ends = (None if end is None else jnp.log(end) for end in (low, high))
        part = Tuned(Learner(jnp.clip(part.log.model, *ends), part.log.opt_state))
        return part, added, {**metrics, "": part.value}

    return stage._replace(step=step)


@tunable(
    "exploration_noise",
    "initial_noise",
    "target_entropy_scale",
    "noise_learning_rate",
    "least_noise",
    "most_noise",
    "entropy_interval",
    "entropy_estimate",
    "entropy_samples",
    "entropy_components",
    "actor_interval",
)
def entropic_noise(
    *,
    policy: FieldPolicy,
    exploration_noise: Positive = 0.1,
    initial_noise: Positive = 3.0,
    target_entropy_scale: Finite = 0.9,
    noise_learning_rate: Positive = 0.03,
    least_noise: Positive | None = None,
    most_noise: Positive | None = None,
    entropy_interval: Count = 10_000,
    entropy_estimate: Annotated[str, one_of(ENTROPIES)] = "mixture",
    entropy_samples: Annotated[int, at_least(2)] = 200,
    entropy_components: Count = 3,
    actor_interval: Count = 2,
) -> Behaviour:
    """How DACER's policy behaves: clip(x_0 + exploration_noise omega z, -1, 1), omega tuned to hold an entropy.

    So it explores, so the critic's next action is drawn, and so does the actor's loss see it: what the clip holds has
    no gradient. omega, the part "noise", descends log omega (H - H_target) by Adam, H the mean over the batch's
    states of an estimate from the samples of each.

    Args:
        policy: The field policy.
        exploration_noise: Standard deviation of additive action noise, times the learned factor (0.15 in HalfCheetah
            and Humanoid).
        initial_noise: Start of the learned noise factor.
        target_entropy_scale: The target entropy is minus this times the number of action dimensions, in nats.
        noise_learning_rate: Adam's rate for the logarithm of the noise factor.
        least_noise: What the noise factor is held at where it would fall below; None for no bound, as published.
        most_noise: The same above: an estimate of the entropy that is stuck below its target lets it rise for ever.
        entropy_interval: Updates between two steps of the noise factor.
        entropy_estimate: mixture (the bound of a fitted mixture), mixture_value (its value), gaussian or neighbours.
        entropy_samples: Samples per state for the entropy.
        entropy_components: Components of the mixtures.
        actor_interval: The actor and the target critics move at every so many updates.

    Source: DACER (arXiv 2405.15177) and its code.

    Raises:
        ValueError: For a value out of its range.
    """
    if entropy_samples < entropy_components:
        raise ValueError(
            f"entropy_samples must be at least entropy_components, {entropy_components}, got {entropy_samples}."
        )

    _checks.ordered("least_noise", least_noise, "initial_noise", initial_noise)
    _checks.ordered("initial_noise", initial_noise, "most_noise", most_noise)

    def behave(parts: Parts) -> Policy:
        return within_box(noisy(policy.act, exploration_noise * parts.noise))

    def estimate(s: Seen, key: Key) -> Scalar:
        act = behaviour.acting(s.before)

        def of(obs: Float[Array, " o"], key: Key) -> Scalar:
            draw_key, fit_key = jax.random.split(key)
            points = jax.vmap(lambda key: act(obs, key))(jax.random.split(draw_key, entropy_samples))
            return ENTROPIES[entropy_estimate](points, fit_key, entropy_components)

        keys = jax.random.split(key, s.batch.obs.shape[0])
        return jnp.mean(jax.vmap(of, axis_name=BATCH_AXIS)(s.batch.obs, keys))

    noise = tuned_by_samples(
        initial_noise,
        estimate,
        lambda s: -target_entropy_scale * s.batch.action.shape[-1],
        noise_learning_rate,
    )
    noise = held_within(noise, least_noise, most_noise)
    behaviour = Behaviour(behave, "actor", actor_interval, {"noise": every(noise, entropy_interval)})
    return behaviour
