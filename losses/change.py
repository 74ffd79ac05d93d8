"""How far a field has moved since the rollout, by what it predicts: a trust region's measure without a density."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._checks import function, one_key, same_shapes
from dpolicy._types import Key, Scalar
from dpolicy.fields import predict_noise
from dpolicy.losses.match import Transform, start

# Stream of the stored key that no draw of the ratio has (theirs are 0, 1, 2, ...).
_POINTS = 2**30


def noise_predictions(transform: Transform) -> Callable[[Any, Any, Key], Float[Array, "k a"]]:
    """`(field, example, key) -> the noises the field predicts` at the noised points that `transform` makes.

    The points come from a stream of example.extras["key"], the key stored with the transition, that the ratio does not
    draw from, so they are the same in every pass;
    stored at rollout as extras["predictions"], the predictions are what `prediction_change` compares with.

    Examples:
        >>> print(noise_predictions(perturb(schedule, draws=3))(field, stored(key=key), key).shape)
        (3, 2)
    """
    function("transform", transform, "(example, match, key) -> match")

    def predictions(field: Any, example: Any, key: Key) -> Float[Array, "k a"]:
        stored = one_key(example.extras["key"], "extras['key']")
        points_key = jax.random.fold_in(stored, _POINTS)
        match = jax.lax.stop_gradient(transform(example, start(example), points_key))
        return jax.vmap(predict_noise, in_axes=(None, 0, 0, None))(field, match.x, match.t, example.obs)

    return predictions


def prediction_change(transform: Transform) -> Callable[[Any, Any, Key], Scalar]:
    """`(field, example, key) -> mean |eps_new - eps_old|^2 / d`, what FPO++ adapts its rate to (arXiv 2602.02481).

    The mean is over the noised points; `transform`, and what must have been stored: see `noise_predictions`.

    Examples:
        >>> transform = perturb(schedule, draws=3)
        >>> old = noise_predictions(transform)(field, stored(key=key), key)
        >>> change = prediction_change(transform)(field, stored(key=key, predictions=old - 0.5), key)
        >>> print(f"{change:.2f}")
        0.25
    """
    predictions = noise_predictions(transform)

    def change(field: Any, example: Any, key: Key) -> Scalar:
        old = jax.lax.stop_gradient(example.extras["predictions"])
        new = predictions(field, example, key)
        same_shapes(**{"the predictions": new, "extras['predictions']": old})
        return jnp.mean((new - old) ** 2)

    return change
