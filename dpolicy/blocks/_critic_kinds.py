"""What a critic says of (s, a): a number or a law of the return, and the error by which it is fitted."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

from dpolicy._types import Number
from dpolicy.losses import CriticError, categorical_error, quantile_error
from dpolicy.losses.categorical import check_support
from dpolicy.networks import AtomicQ, CategoricalQ, QNetwork, QuantileQ

CriticKind: TypeAlias = Literal["scalar", "c51", "hl_gauss", "quantile"]
CRITIC_KINDS = get_args(CriticKind)
_LOW, _HIGH, _ATOMS, _QUANTILES = -100.0, 100.0, 101, 100


class Kind(NamedTuple):
    """One kind of critic.

    Attributes:
        network: Makes one critic, as `QNetwork` does.
        error: Of its prediction; None for the squared error of numbers.
    """

    network: Callable[..., Any]
    error: CriticError | None


def critic_kind(
    critic: CriticKind,
    *,
    low: Number | None = None,
    high: Number | None = None,
    atoms: int | None = None,
) -> Kind:
    """The networks and the error of a kind of critic.

    Args:
        critic: scalar, c51, hl_gauss or quantile.
        low: The lowest atom of categorical laws.
        high: The highest.
        atoms: Their number, or that of quantiles.

    Raises:
        ValueError: For a setting of laws where the critic gives none, and bounds in the wrong order.
    """
    ranged = critic in ("c51", "hl_gauss")
    for name, value, kinds in (
        ("low", low, ranged),
        ("high", high, ranged),
        ("atoms", atoms, critic != "scalar"),
    ):
        if value is not None and not kinds:
            raise ValueError(
                f"critic_{name} is of critics with atoms, got {value!r} for critic={critic!r}: give None."
            )
    if critic == "scalar":
        return Kind(QNetwork, None)
    if critic == "quantile":
        count = _QUANTILES if atoms is None else atoms
        return Kind(partial(QuantileQ, quantiles=count), quantile_error())
    low, high = _LOW if low is None else low, _HIGH if high is None else high
    count = _ATOMS if atoms is None else atoms
    check_support(low, high, count, "critic_{}")
    return Kind(
        lambda *sizes, **given: AtomicQ(CategoricalQ(*sizes, atoms=count, **given), low, high),
        categorical_error(width=0.75 if critic == "hl_gauss" else None),
    )
