"""Losses made of losses: sums, averages, the batch, and a part of the model."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from dpolicy._batch import BATCH_AXIS
from dpolicy._checks import function, in_range, integer, loss_value, one_key, returned
from dpolicy._metrics import reduce_metrics
from dpolicy._select import heeded, sound, weighed
from dpolicy._types import Key, Loss, Metrics, Number, Scalar
from dpolicy.networks import Dropped


def add(**terms: tuple[Number, Loss]) -> Loss:
    """The weighted sum of named losses: add(bc=(1.0, matching(...)), q=(eta, bptt(sampler, q))).

    Each term is (coefficient, loss); term `i` draws from `fold_in(key, i)`. The metrics are `loss`, the
    total, and those of each term under its name: `bc/loss`, `q/value`, ... A term whose coefficient is 0 adds
    nothing to value and gradient, whatever its own.

    Examples:
        >>> loss = add(fit=(1.0, square), decay=(0.5, square))
        >>> value, metrics = loss(jnp.array(2.0), example, key)
        >>> print(value, sorted(metrics))
        6.0 ['decay/loss', 'fit/loss', 'loss']
    """
    return _summed("add", terms, jax.random.fold_in)


def sharing(**terms: tuple[Number, Loss]) -> Loss:
    """`add` whose terms draw from one key: where each begins with the same `perturb`, they see the same noised action.

    Examples:
        >>> terms = {"fit": (1.0, matching(perturb(schedule))), "q": (0.1, noisy_q(perturb(schedule), q))}
        >>> print(sorted(sharing(**terms)(field, example, key)[1]))
        ['fit/loss', 'fit/target', 'loss', 'q/loss', 'q/slope']
    """
    return _summed("sharing", terms, lambda key, index: key)


def dropping(loss: Loss, rate: Number) -> Loss:
    """The loss of a model of which hidden units are left out at random, each example others: dropout.

    Only here: the model that acts is whole. The model must have one network `mlp`, which `Dropped` takes.

    Args:
        loss: Of the model.
        rate: The probability of a unit to be left out, below 1.

    Examples:
        >>> policy = dp.Gaussian(1, 2, hidden=(4,), key=key)
        >>> fit = cloning(gaussian_log_likelihood)
        >>> print(bool(dropping(fit, 0.0)(policy, example, key)[0] == fit(policy, example, key)[0]))
        True
        >>> print(bool(dropping(fit, 0.5)(policy, example, key)[0] == fit(policy, example, key)[0]))
        False
    """
    function("loss", loss, "(model, example, key) -> (scalar, metrics)")
    in_range("rate", rate, 0.0, 1.0, open_high=True)

    def dropped(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        drop_key, key = jax.random.split(one_key(key))
        return loss(eqx.tree_at(lambda m: m.mlp, model, Dropped(model.mlp, rate, key=drop_key)), example, key)

    return dropped


def _summed(what: str, terms: dict[str, tuple[Number, Loss]], key_of: Callable[[Key, int], Key]) -> Loss:
    if not terms:
        raise ValueError(f"{what} must be given at least one term name=(coefficient, loss), got none.")
    for name, term in terms.items():
        if not (isinstance(term, tuple) and len(term) == 2 and callable(term[1])):
            raise ValueError(f"{what}'s term {name} must be a pair (coefficient, loss), got {term!r}.")
        in_range(f"the coefficient of {name}", term[0])

    def loss(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        one_key(key)
        total, metrics = jnp.zeros(()), {}
        for index, (name, (coefficient, term)) in enumerate(terms.items()):
            seen = heeded(coefficient, model)
            value, inner = loss_value(name, term(seen, example, key_of(key, index)))
            total = total + weighed(coefficient, value)
            metrics |= {f"{name}/{inner_name}": x for inner_name, x in inner.items()}
        return total, {"loss": total, **metrics}

    return loss


def averaged(loss: Loss, draws: int) -> Loss:
    """The mean of `loss` over `draws` independent keys.

    Examples:
        >>> noisy = lambda model, example, key: (model + jax.random.normal(key), {})
        >>> value, _ = averaged(noisy, 10_000)(jnp.array(2.0), example, key)
        >>> print(f"{value:.1f}")
        2.0
    """
    function("loss", loss, "(model, example, key) -> (scalar, metrics)")
    integer("draws", draws)

    def one(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        return loss_value("loss", loss(model, example, key))

    def mean(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        value, metrics = jax.vmap(one, in_axes=(None, None, 0))(
            model, example, jax.random.split(one_key(key), draws)
        )
        return jnp.mean(value), reduce_metrics(metrics, axis=0)

    return mean


def _size(batch: Any) -> int:
    """The length of the leading axis that all leaves share, or raise `ValueError`."""
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(batch)]
    if not shapes or any(shape[:1] != shapes[0][:1] for shape in shapes) or not shapes[0]:
        listing = ", ".join(str(shape) for shape in shapes) or "none"
        raise ValueError(f"batch must hold arrays that share their leading axis, got shapes {listing}.")
    return shapes[0][0]


def batched(loss: Loss) -> Callable[[Any, Any, Key], tuple[Scalar, Metrics]]:
    """The mean of a per-example loss over a batch: (model, batch, key) -> (scalar, metrics).

    The model is shared, every leaf of `batch` carries a leading axis, and the key is split among the
    examples. The mapped axis is named "batch", so a block may use statistics of the whole batch. Metrics are
    averaged, except that names ending in `_min` and `_max` keep the extreme.

    Examples:
        >>> batch = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), example)
        >>> print(batched(square)(jnp.array(3.0), batch, key)[0])
        9.0
    """
    function("loss", loss, "(model, example, key) -> (scalar, metrics)")

    def one(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        return loss_value("loss", loss(model, example, key))

    def mean(model: Any, batch: Any, key: Key) -> tuple[Scalar, Metrics]:
        size = _size(batch)
        keys = jax.random.split(one_key(key), size)
        value, metrics = jax.vmap(one, in_axes=(None, 0, 0), axis_name=BATCH_AXIS)(model, batch, keys)
        return jnp.mean(value), reduce_metrics(metrics, axis=0)

    return mean


def on(selector: Callable[[Any], Any], loss: Loss) -> Loss:
    """Apply `loss` to a part of a composite model: on(lambda model: model.field, loss).

    Examples:
        >>> print(on(lambda model: model["actor"], square)({"actor": jnp.array(3.0)}, example, key)[0])
        9.0
    """
    function("selector", selector, "model -> part")
    function("loss", loss, "(model, example, key) -> (scalar, metrics)")

    def focused(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        return loss(selector(model), example, key)

    return focused


def given(view: Callable[[Any], Any], loss: Loss) -> Loss:
    """Apply `loss` to `view(example)`, e.g. to the same transition with another action.

    Examples:
        >>> reward = lambda model, example, key: (model * example.reward, {})
        >>> doubled = lambda example: eqx.tree_at(lambda e: e.reward, example, 2 * example.reward)
        >>> print(given(doubled, reward)(jnp.array(3.0), example, key)[0])
        6.0
    """
    function("view", view, "example -> example")
    function("loss", loss, "(model, example, key) -> (scalar, metrics)")

    def viewed(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        return loss(model, view(example), key)

    return viewed


def weighted(weight: Callable[[Any], Scalar], loss: Loss) -> Loss:
    """Multiply `loss` by `weight(example)`, e.g. a mask; the metrics stay unweighted except `loss`.

    An example of weight 0 may hold numbers that are not finite: `loss` reads 0 for them.

    Examples:
        >>> print(weighted(lambda example: 0.5 * example.reward, square)(jnp.array(3.0), example, key)[0])
        4.5
    """
    function("weight", weight, "example -> scalar")
    function("loss", loss, "(model, example, key) -> (scalar, metrics)")

    def scaled(model: Any, example: Any, key: Key) -> tuple[Scalar, Metrics]:
        factor = returned("weight", weight(example))
        value, metrics = loss_value("loss", loss(model, sound(jnp.asarray(factor) != 0, example), key))
        value = weighed(factor, value)
        return value, {**metrics, "loss": value}

    return scaled
