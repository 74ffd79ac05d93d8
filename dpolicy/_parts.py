"""Rows of a data set in parts, for sums over sets that do not fit into memory."""

from collections.abc import Iterator
from typing import Any

_ROWS = 2**20


def in_parts(array: Any) -> Iterator[Any]:
    """Its rows, so many at once that what is computed of them is small beside a set that does not fit into memory."""
    return (array[i : i + _ROWS] for i in range(0, len(array), _ROWS))
