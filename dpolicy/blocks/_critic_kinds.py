"""What a critic says of (s, a): a number or a law of the return, and the error by which it is fitted."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, NamedTuple, TypeAlias, get_args

from dpolicy._settings import Finite, Fraction, at_least
from dpolicy.blocks._deviations import Deviations
from dpolicy.losses import CriticError, categorical_error, huber_error, quantile_error
from dpolicy.losses.categorical import check_support
from dpolicy.networks import AtomicQ, CategoricalQ, GaussianQ, QNetwork, QuantileQ
from dpolicy.recipe import tunable

CriticKind: TypeAlias = Literal["scalar", "huber", "c51", "hl_gauss", "quantile", "gaussian"]
CRITIC_KINDS = get_args(CriticKind)
_LOW, _HIGH, _ATOMS, _QUANTILES, _DEVIATION_RATE = -100.0, 100.0, 101, 100, 0.005


class Kind(NamedTuple):
    """One kind of critic.

    Attributes:
        name: One of CRITIC_KINDS.
        network: Makes one critic, as `QNetwork` does.
        error: Of its prediction; None for the squared error of numbers, and where there are deviations.
        deviations: Of Gaussian critics, what bounds the samples that they are fitted to.
    """

    name: str
    network: Callable[..., Any]
    error: CriticError | None = None
    deviations: Deviations | None = None


def left_behind(before: str, after: str) -> tuple[str, ...]:
    """The settings of laws that were chosen for one kind of critic and mean nothing, or another thing, to another."""
    settings = critic_kind.tunable[1:]
    same = ("critic_low", "critic_high", "critic_atoms") if {before, after} == {"c51", "hl_gauss"} else ()
    return () if before == after else tuple(name for name in settings if name not in same)


@tunable("critic", "critic_low", "critic_high", "critic_atoms", "critic_form", "deviation_rate")
def critic_kind(
    *,
    critic: CriticKind = "scalar",
    critic_low: Finite | None = None,
    critic_high: Finite | None = None,
    critic_atoms: Annotated[int, at_least(2)] | None = None,
    critic_form: Literal["scaled", "huber", "huber_doubled"] | None = None,
    deviation_rate: Fraction | None = None,
) -> Kind:
    """The networks and the error of a kind of critic.

    Args:
        critic: What critics give, and are fitted by: scalar (Q, squared error), huber (Q, Huber's loss, for prioritised
            replay), c51 (probabilities of atoms; the projected law of the target), hl_gauss (the same; the target's
            mean as a histogram), quantile, or gaussian (mean and deviation; the target's mean and a draw of it, with
            DSAC-T's remedies).
        critic_low: The lowest atom of c51 and hl_gauss, -100 unless given. Values outside the atoms cannot be learned;
            the metric "outside" is their share of the targets.
        critic_high: The highest atom, 100 unless given.
        critic_atoms: Number of atoms, 101 unless given, or of quantiles, 100.
        critic_form: The loss of gaussian critics: scaled (DSAC-T's paper; unless given), huber (its later code; half
            the variance), or huber_doubled (the same with the variance of scaled); see
            `dpolicy.losses.gaussian_value_loss`.
        deviation_rate: Share of a batch in the running mean of gaussian critics' deviations, which bounds their
            samples, 0.005 unless given.

    Raises:
        ValueError: For a setting of laws where the critic gives none, and bounds in the wrong order.
    """
    atoms, gaussian = ("c51", "hl_gauss"), ("gaussian",)
    for name, value, of, kinds in (
        ("critic_low", critic_low, "critics with atoms", atoms),
        ("critic_high", critic_high, "critics with atoms", atoms),
        ("critic_atoms", critic_atoms, "critics with atoms", (*atoms, "quantile")),
        ("critic_form", critic_form, "gaussian critics", gaussian),
        ("deviation_rate", deviation_rate, "gaussian critics", gaussian),
    ):
        if value is not None and critic not in kinds:
            raise ValueError(f"{name} is of {of}, got {value!r} for critic={critic!r}: give None.")
    if critic == "scalar":
        return Kind(critic, QNetwork)
    if critic == "huber":
        return Kind(critic, QNetwork, huber_error())
    if critic == "gaussian":
        rate = _DEVIATION_RATE if deviation_rate is None else deviation_rate
        return Kind(critic, GaussianQ, deviations=Deviations(rate, critic_form or "scaled"))
    if critic == "quantile":
        count = _QUANTILES if critic_atoms is None else critic_atoms
        return Kind(critic, partial(QuantileQ, quantiles=count), quantile_error())
    low, high = _LOW if critic_low is None else critic_low, _HIGH if critic_high is None else critic_high
    count = _ATOMS if critic_atoms is None else critic_atoms
    check_support(low, high, count, "critic_{}")
    return Kind(
        critic,
        lambda *sizes, **given: AtomicQ(CategoricalQ(*sizes, atoms=count, **given), low, high),
        categorical_error(width=0.75 if critic == "hl_gauss" else None),
    )
