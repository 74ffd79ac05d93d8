"""Values as distributions over fixed atoms: targets projected onto them, and the loss of a categorical critic."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from dpolicy._checks import (
    fraction,
    in_range,
    instance,
    integer,
    masks,
    non_negative,
    positive,
    same_shapes,
    scalars,
    vector,
)
from dpolicy._types import Number, Scalar
from dpolicy.losses.value import td_target
from dpolicy.networks import Points


def check_support(low: Number, high: Number, atoms: int, names: str = "{}") -> None:
    """Raise `ValueError` unless `low` is below `high` and there are at least two atoms; `names` wraps the first two."""
    in_range(names.format("low"), low)
    in_range(names.format("high"), high)
    positive(f"{names.format('high')} - {names.format('low')}", high - low)
    integer("atoms", atoms, 2)


def check_atoms(atoms: Float[Array, " n"]) -> None:
    """Raise `ValueError` unless these are two atoms or more."""
    vector("atoms", atoms)
    integer("the number of atoms", atoms.shape[0], 2)


def support(low: Number, high: Number, atoms: int) -> Float[Array, " n"]:
    """The atoms z_i = low + i (high - low) / (atoms - 1), i = 0 ... atoms - 1.

    Examples:
        >>> print(support(-1.0, 1.0, 5))
        [-1.  -0.5  0.   0.5  1. ]
    """
    check_support(low, high, atoms)
    return low + (high - low) * jnp.linspace(0.0, 1.0, atoms)


def td_target_law(reward: Scalar, terminated: Bool[Array, ""], following: Points, discount: Number) -> Points:
    """The law of reward + discount (1 - terminated) z, z ~ `following`: `td_target` of each of its points.

    Examples:
        >>> law = td_target_law(jnp.array(1.0), no, Points(jnp.array([0.0, 4.0]), jnp.array([0.5, 0.5])), 0.5)
        >>> print(law.value, law.mean)
        [1. 3.] 2.0
    """
    instance("following", following, Points, "Points, as of a law")
    back = lambda value: td_target(reward, terminated, value, discount)
    # After an end all points lie at the reward, whatever law its successor has, nan as well.
    weight = jnp.where(terminated, 1 / following.weight.shape[-1], following.weight)
    value = jax.vmap(back)(following.value.reshape(-1)).reshape(following.value.shape)
    return Points(value, weight)


def onto_atoms(law: Points, atoms: Float[Array, " n"]) -> Float[Array, " n"]:
    """The projection of C51: each point's weight goes to the two nearest atoms, in proportion to how near they are.

    y_i = sum_j w_j max(0, 1 - |clip(v_j) - z_i| / dz), the values clipped to the atoms' ends. The mean is kept where
    nothing is clipped. Source: Bellemare et al. 2017 (arXiv 1707.06887, eq. 7).

    Args:
        law: What is projected, of any number of points.
        atoms: z, evenly spaced, rising.

    Examples:
        >>> print(onto_atoms(Points(jnp.array([0.25, 5.0]), jnp.array([0.5, 0.5])), jnp.array([0.0, 1.0])))
        [0.375 0.625]
    """
    instance("law", law, Points, "Points, as of a law")
    check_atoms(atoms)
    same_shapes(value=law.value, weight=law.weight)
    moved = jnp.clip(law.value, atoms[0], atoms[-1])
    apart = jnp.abs(moved[None] - atoms[:, None]) * ((atoms.shape[0] - 1) / (atoms[-1] - atoms[0]))
    # A probability is moved, not estimated: in full where products would be of fewer digits.
    return jnp.matmul(jnp.maximum(1 - apart, 0), law.weight, precision="highest")


def categorical_target(
    probabilities: Float[Array, " n"],
    reward: Scalar,
    terminated: Bool[Array, ""],
    discount: Number,
    *,
    low: Number,
    high: Number,
) -> Float[Array, " n"]:
    """The law of reward + discount (1 - terminated) z, z ~ `probabilities`, put back on the atoms it is over.

    Each value, clipped to [low, high], gives its probability to the two nearest atoms in proportion to how near they
    are: y_i = sum_j p_j max(0, 1 - |(z'_j - z_i) / dz|). The mean is kept where nothing is clipped. A time limit does
    not cut the bootstrap. Source: C51 (Bellemare et al. 2017, arXiv 1707.06887, eq. 7).

    Examples:
        >>> law, reward = jnp.array([1.0, 0.0, 0.0]), jnp.array(0.5)
        >>> print(categorical_target(law, reward, jnp.array(True), 0.9, low=-1.0, high=1.0))
        [0.  0.5 0.5]
    """
    fraction("discount", discount)
    vector("probabilities", probabilities)
    scalars(reward=reward, terminated=terminated)
    masks(terminated=terminated)
    atoms = support(low, high, probabilities.shape[0])
    return onto_atoms(td_target_law(reward, terminated, Points(atoms, probabilities), discount), atoms)


def categorical_loss(log_probabilities: Float[Array, " n"], target: Float[Array, " n"]) -> Scalar:
    """Binary cross-entropy of each atom, -mean_i ( y_i log p_i + (1 - y_i) log(1 - p_i) ).

    Unlike the cross-entropy of a categorical law it has its minimum at p = y also where y does not sum to one, as an
    element-wise minimum of two laws does not (the softmax then cannot reach it). log(1 - p) is kept finite at p = 1.
    Source: DDiffPG (arXiv 2406.00681), code.

    Examples:
        >>> loss = categorical_loss(jnp.log(jnp.array([0.5, 0.5])), jnp.array([1.0, 0.0]))
        >>> print(f"{loss:.3f}")
        0.693
    """
    same_shapes(log_probabilities=log_probabilities, target=target)
    vector("log_probabilities", log_probabilities)
    others = jnp.log(-jnp.expm1(jnp.minimum(log_probabilities, -1e-6)))
    return -jnp.mean(target * log_probabilities + (1 - target) * others)


def categorical_cross_entropy(
    log_probabilities: Float[Array, " n"], target: Float[Array, " n"], *, entropy_weight: Number = 0.0
) -> Scalar:
    """Cross-entropy of a law over atoms, less a bonus for its entropy: -sum_i y_i log p_i + weight sum_i p_i log p_i.

    Where y sums to one and the weight is 0 the minimum is at p = y. With p = softmax(logits) the gradient by the logits
    is p sum_i y_i - y, and the entropy adds weight p_i (log p_i - sum_j p_j log p_j).

    Sources: C51 (arXiv 1707.06887); the entropy of DIME (arXiv 2502.02316), code, whose weight is .005.

    Examples:
        >>> law = jnp.log(jnp.array([0.5, 0.5]))
        >>> loss = categorical_cross_entropy(law, jnp.array([1.0, 0.0]), entropy_weight=0.1)
        >>> print(f"{loss:.3f}")
        0.624
    """
    same_shapes(log_probabilities=log_probabilities, target=target)
    vector("log_probabilities", log_probabilities)
    non_negative("entropy_weight", entropy_weight)
    negentropy = jnp.sum(jnp.exp(log_probabilities) * log_probabilities)
    return entropy_weight * negentropy - jnp.sum(target * log_probabilities)
