"""Distributional critics: what a law of the return is fitted to, and how far it is from that."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._checks import array, instance, non_negative, positive, returned, vector
from dpolicy._types import Metrics, Number, Scalar
from dpolicy.losses.categorical import categorical_cross_entropy, check_atoms, onto_atoms
from dpolicy.networks import CategoricalValue, Points, QuantileValue, mean_of

# How far the laws that an ensemble of critics gives are from a goal, a number or `Points`, and what to report of it.
CriticError: TypeAlias = Callable[[Any, Any], tuple[Float[Array, "*n"], Metrics]]


def hl_gauss(value: Scalar, atoms: Float[Array, " n"], *, width: Number = 0.75) -> Float[Array, " n"]:
    """A number as a law over atoms: the mass of N(value, (width dz)^2) in the bin around each atom.

    Bins reach half a spacing dz to either side of their atoms; what lies beyond the ends is shared out. The value is
    clipped to the atoms' ends. With the cross-entropy it makes a regression of a classification. Source: "Stop
    regressing" (arXiv 2403.03950, eq. 3), where the width is 0.75.

    Args:
        value: In the units of the atoms.
        atoms: Evenly spaced, rising.
        width: Standard deviation in units of the spacing.

    Examples:
        >>> print(hl_gauss(jnp.array(0.0), jnp.array([-1.0, 0.0, 1.0])))
        [0.241 0.519 0.241]
    """
    check_atoms(atoms)
    array("value", value)
    positive("width", width)
    spacing = (atoms[-1] - atoms[0]) / (atoms.shape[0] - 1)
    edges = jnp.append(atoms - spacing / 2, atoms[-1] + spacing / 2)
    scaled = (edges - jnp.clip(value, atoms[0], atoms[-1])) / (width * spacing * math.sqrt(2))
    mass = jnp.diff(jax.scipy.special.erf(scaled))
    return mass / jnp.sum(mass)


def quantile_huber(
    quantiles: Float[Array, " n"], target: Float[Array, " m"], *, weight: Any = None, kappa: Number = 1.0
) -> Scalar:
    """sum_i mean_k |u_i - 1(e_ik < 0)| H(e_ik) / kappa, e_ik = y_k - q_i, u_i = (i - 1/2) / n, H Huber's loss.

    H(e) = e^2 / 2 up to kappa, kappa (|e| - kappa / 2) beyond: what is fitted are quantiles for kappa -> 0, and
    something nearer the mean otherwise (of N(0, 1) at u = .9: 0.993 with kappa = 1, where 1.282 is the quantile).
    Source: QR-DQN (arXiv 1710.10044, eq. 10).

    Args:
        quantiles: q, at the levels u.
        target: y, samples or points of the law that is fitted.
        weight: Their probabilities [m]; 1 / m each unless given.
        kappa: Where the loss turns linear, in the units of the values.

    Examples:
        >>> print(quantile_huber(jnp.array([0.0, 1.0]), jnp.array([3.0])))
        1.75
    """
    vector("quantiles", quantiles)
    vector("target", target)
    positive("kappa", kappa)
    count = quantiles.shape[0]
    level = ((jnp.arange(count) + 0.5) / count)[:, None]
    error = target[None] - quantiles[:, None]
    size = jnp.minimum(jnp.abs(error), kappa)
    loss = jnp.abs(level - (error < 0)) * size * (jnp.abs(error) - size / 2) / kappa
    return jnp.sum(jnp.mean(loss, axis=1) if weight is None else jnp.sum(loss * weight[None], axis=1))


def as_points(goal: Any) -> Points:
    """A number as the law of one point; a law as it is."""
    if isinstance(goal, Points):
        return goal
    value = returned("target", goal)
    return Points(value[None], jnp.ones(1, value.dtype))


def _each(
    error: Callable[[Any, Any], tuple[Scalar, Scalar]], of: Any, goal: Any
) -> tuple[Float[Array, "*n"], Scalar]:
    """Of every member of an ensemble, or of a single critic; a goal may be that of all members, or one for each."""
    arrays = jax.tree.leaves(of)
    if arrays[0].ndim == 1:
        return error(of, goal)
    own = isinstance(goal, Points) and goal.value.ndim > 1
    errors, reported = jax.vmap(error, (0, 0 if own else None))(of, goal)
    return errors, jnp.mean(reported)


def categorical_error(*, width: Number | None = None, entropy_weight: Number = 0.0) -> CriticError:
    """`categorical_cross_entropy` of critics that return a `CategoricalValue`.

    The goal y is a law projected onto the atoms (`onto_atoms`; of a number its single point), or, where a `width` is
    given, its mean as a Gaussian over them (`hl_gauss`); laws with an axis in front are one for each critic. Values
    beyond the atoms cannot be learned: the metric "outside" is the share of the goal that lies there.

    Args:
        width: Of `hl_gauss`, in units of the spacing of atoms; None for C51's projection.
        entropy_weight: Of the bonus for the entropy of the critics' laws.

    Examples:
        >>> critic = AtomicQ(CategoricalQ(1, 2, atoms=3, key=key), -1.0, 1.0)
        >>> error, metrics = categorical_error()(critic(obs, action), jnp.array(0.5))
        >>> print(error.shape, metrics["outside"])
        () 0.0
    """
    if width is not None:
        positive("width", width)
    non_negative("entropy_weight", entropy_weight)

    def error(prediction: Any, goal: Any) -> tuple[Float[Array, "*n"], Metrics]:
        instance("what the critic returns", prediction, CategoricalValue, "a CategoricalValue, as of AtomicQ")

        def one(said: CategoricalValue, goal: Any) -> tuple[Scalar, Scalar]:
            law, atoms = as_points(goal if width is None else mean_of(goal)), said.atoms
            target = onto_atoms(law, atoms) if width is None else hl_gauss(law.value[0], atoms, width=width)
            beyond = (law.value < atoms[0]) | (law.value > atoms[-1])
            loss = categorical_cross_entropy(said.log_probabilities, target, entropy_weight=entropy_weight)
            return loss, jnp.sum(jnp.where(beyond, law.weight, 0))

        errors, outside = _each(one, prediction, goal)
        return errors, {"outside": outside}

    return error


def quantile_error(*, kappa: Number = 1.0) -> CriticError:
    """`quantile_huber` of critics that return a `QuantileValue`; the goal is a law, or a number as its single point.

    Args:
        kappa: Where the loss turns linear, in the units of the values.

    Examples:
        >>> print(quantile_error()(QuantileValue(jnp.array([0.0, 1.0])), jnp.array(3.0))[0])
        1.75
    """
    positive("kappa", kappa)

    def error(prediction: Any, goal: Any) -> tuple[Float[Array, "*n"], Metrics]:
        instance("what the critic returns", prediction, QuantileValue, "a QuantileValue, as of QuantileQ")

        def one(said: QuantileValue, goal: Any) -> tuple[Scalar, Scalar]:
            law = as_points(goal)
            loss = quantile_huber(said.quantiles, law.value, weight=law.weight, kappa=kappa)
            return loss, jnp.zeros(())

        return _each(one, prediction, goal)[0], {}

    return error
