"""How stacked metrics become one number each, everywhere the same."""

from typing import Any

import jax.numpy as jnp

from dpolicy._types import Metrics


def reduce_metrics(metrics: Metrics, axis: int | None = None) -> Metrics:
    """Over `axis`, or all: `..._min` by the minimum, `..._max` by the maximum, the rest by the mean."""

    def reduce(name: str, values: Any) -> Any:
        ending = name.rpartition("_")[2]
        return {"min": jnp.min, "max": jnp.max}.get(ending, jnp.mean)(values, axis=axis)

    return {name: reduce(name, values) for name, values in metrics.items()}
