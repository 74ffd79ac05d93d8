"""How many values of a metric become one number, everywhere the same."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import jaxpr_as_fun
from jaxtyping import PyTree

from dpolicy._types import Metrics


def reduce_metrics(metrics: Metrics, axis: int | None = None) -> Metrics:
    """Over `axis`, or all: `..._min` by the minimum, `..._max` by the maximum, the rest by the mean."""

    def reduce(name: str, values: Any) -> Any:
        ending = name.rpartition("_")[2]
        return {"min": jnp.min, "max": jnp.max}.get(ending, jnp.mean)(values, axis=axis)

    return {name: reduce(name, values) for name, values in metrics.items()}


def traced(body: Callable[..., Any], *example: Any) -> tuple[Callable[..., Any], Any]:
    """A function of arrays that does what `body` was seen to do, and the shapes that `body` returns; one trace."""
    trace, shapes = jax.make_jaxpr(body, return_shape=True)(*example)
    structure, run = jax.tree.structure(shapes), jaxpr_as_fun(trace)
    return lambda *given: jax.tree.unflatten(structure, run(*jax.tree.leaves(given))), shapes


def accumulated(
    body: Callable[[Any, Any], tuple[Any, Metrics]],
    carry: Any,
    xs: PyTree = None,
    *,
    length: int | None = None,
    sums: Collection[str] = (),
    ahead: tuple[int, Callable[[Any, PyTree], PyTree]] | None = None,
) -> tuple[Any, Metrics]:
    """`lax.scan` of `body(carry, x) -> (carry, metrics)`, with one number for each metric of all its calls.

    `..._min` is the minimum, `..._max` the maximum, what `sums` names the sum (exact for integers) and everything else
    the mean. They are added up in one vector as they come: a stack of each, one row a call, would be a kernel for every
    metric and call, and as many at the end.

    Args:
        body: What is scanned; its metrics are scalars. It is traced once.
        carry: As for `lax.scan`.
        xs: As for `lax.scan`.
        length: As for `lax.scan`; at least 1.
        sums: Names of metrics that are added up.
        ahead: How many calls are prepared at once, a divisor of their number, and `(carry, xs of these) -> xs`, what
            the body is given in their place.

    Returns:
        The last carry, and the metrics.
    """
    count = jax.tree.leaves(xs)[0].shape[0] if length is None else length
    at_once, prepare = (count, lambda carry, xs: xs) if ahead is None else ahead
    blocks = jax.tree.map(lambda leaf: leaf.reshape(count // at_once, at_once, *leaf.shape[1:]), xs)
    if count == 1:
        xs = prepare(carry, jax.tree.map(lambda leaf: leaf[0], blocks))
        carry, metrics = body(carry, jax.tree.map(lambda leaf: leaf[0], xs))
        return carry, {name: _number(name, value, sums) for name, value in metrics.items()}
    # The names are needed before the loop is: its body is traced here, and the trace is what is scanned.
    inside = lambda tree: jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), tree)
    example = inside(xs if ahead is None else jax.eval_shape(prepare, carry, inside(blocks)))
    run, shapes = traced(body, carry, example)
    names = _Names(shapes[1], sums)

    def one(state: tuple[Any, Any], x: Any) -> tuple[Any, None]:
        carry, tally = state
        carry, metrics = run(carry, x)
        return (carry, names.added(tally, metrics)), None

    def block(state: tuple[Any, Any], xs: Any) -> tuple[Any, None]:
        return jax.lax.scan(one, state, prepare(state[0], xs), length=at_once)

    begun = (carry, names.start())
    if ahead is None:
        (carry, tally), _ = jax.lax.scan(one, begun, xs, length=count)
    else:
        (carry, tally), _ = jax.lax.scan(block, begun, blocks, length=count // at_once)
    return carry, names.finished(tally, count)


def _number(name: str, value: Any, sums: Collection[str]) -> Any:
    """A metric as it is added up: whole numbers of those that are summed, else floats."""
    value = jnp.asarray(value)
    if name in sums and not jnp.issubdtype(value.dtype, jnp.inexact):
        return value.astype(jnp.int32)
    return value.astype(float)


class _Names:
    """Which metrics share a vector: sums of floats, sums of whole numbers, extremes (minima of x or -x)."""

    def __init__(self, metrics: Mapping[str, Any], sums: Collection[str]):
        whole = lambda name: not jnp.issubdtype(metrics[name].dtype, jnp.inexact)
        self.all = list(metrics)
        self.sums = sums
        # A maximum is minus the minimum of minus it, so that all extremes are one vector.
        self.signs = {
            name: {"min": 1, "max": -1}[ending]
            for name in metrics
            if name not in sums and (ending := name.rpartition("_")[2]) in ("min", "max")
        }
        self.whole = [name for name in metrics if name in sums and whole(name)]
        self.floats = [name for name in metrics if name not in self.signs and name not in self.whole]

    def _vectors(self, metrics: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        value = {name: _number(name, metrics[name], self.sums) for name in self.all}
        stack = lambda values: jnp.stack(values) if values else None
        return (
            stack([value[name] for name in self.floats]),
            stack([value[name] for name in self.whole]),
            stack([sign * value[name] for name, sign in self.signs.items()]),
        )

    def start(self) -> tuple[Any, Any, Any]:
        return (
            jnp.zeros(len(self.floats)) if self.floats else None,
            jnp.zeros(len(self.whole), jnp.int32) if self.whole else None,
            jnp.full(len(self.signs), jnp.inf) if self.signs else None,
        )

    def added(self, tally: tuple[Any, Any, Any], metrics: Mapping[str, Any]) -> tuple[Any, Any, Any]:
        add = lambda total, new: None if total is None else total + new
        (floats, whole, extremes), new = tally, self._vectors(metrics)
        least = None if extremes is None else jnp.minimum(extremes, new[2])
        return add(floats, new[0]), add(whole, new[1]), least

    def finished(self, tally: tuple[Any, Any, Any], count: int) -> Metrics:
        floats, whole, extremes = tally
        found = {name: whole[i] for i, name in enumerate(self.whole)}
        found |= {name: sign * extremes[i] for i, (name, sign) in enumerate(self.signs.items())}
        for i, name in enumerate(self.floats):
            found[name] = floats[i] if name in self.sums else floats[i] / count
        return {name: found[name] for name in self.all}
