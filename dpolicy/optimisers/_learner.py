"""A model together with the state of the optimiser that trains it."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, PyTree

from dpolicy import _checks
from dpolicy._settings import NonNegative, Positive, checked
from dpolicy._types import Metrics, Number

M = TypeVar("M")


class Learner(eqx.Module, Generic[M]):
    """A model and its optimiser state; the optimiser itself is a constant of the algorithm that owns the learner."""

    model: M
    opt_state: PyTree


def learner(model: M, optimiser: optax.GradientTransformation) -> Learner[M]:
    """Start training `model`: every inexact array in it is a parameter."""
    _checks.instance("optimiser", optimiser, optax.GradientTransformation, "a transformation of optax's")
    # A weakly typed parameter would become strongly typed at its first step, and a jitted step compile twice.
    model = jax.tree.map(lambda leaf: leaf.astype(leaf.dtype) if eqx.is_inexact_array(leaf) else leaf, model)
    return Learner(model, optimiser.init(eqx.filter(model, eqx.is_inexact_array)))


def descend(
    learner: Learner[M],
    loss: Callable[[M], tuple[Float[Array, ""], Metrics]],
    optimiser: optax.GradientTransformation,
    *,
    updates: Any = 0,
) -> tuple[Learner[M], Metrics]:
    """One gradient step: theta <- theta + optimiser(grad loss(theta)).

    A transformation that takes them is given, beside the gradient, the loss' `metrics` and `count`, the updates so far:
    rates that adapt to a metric or follow the algorithm's clock are such transformations (`by_kl`, `by_updates`).

    Args:
        learner: What to train.
        loss: The batch loss `model -> (scalar, metrics)`.
        optimiser: The transformation `learner` was started with.
        updates: The algorithm's count of updates before this one.

    Returns:
        The learner after the step, and the loss' metrics with the `learning_rate` of a transformation that has one and
        `grad_norm`, the global norm before any clipping, which is infinite where its square is (beyond 1.8e19).
    """
    _checks.instance("learner", learner, Learner, "a Learner, as learner(model, optimiser) gives it")
    _checks.function("loss", loss, "model -> (scalar, metrics)")
    (_, metrics), gradient = eqx.filter_value_and_grad(loss, has_aux=True)(learner.model)
    parameters = eqx.filter(learner.model, eqx.is_inexact_array)
    step = optax.with_extra_args_support(optimiser).update
    change, opt_state = step(gradient, learner.opt_state, parameters, metrics=metrics, count=updates)
    model = eqx.apply_updates(learner.model, change)
    metrics = {**metrics, "grad_norm": optax.global_norm(gradient)}
    if rates := optax.tree_utils.tree_get_all_with_path(opt_state, "learning_rate"):
        metrics["learning_rate"] = rates[0][1]
    return Learner(model, opt_state), metrics


def scaled(tree: M, factor: Number) -> M:
    """Every array times `factor`."""
    return jax.tree.map(lambda leaf: factor * leaf, tree)


def keep_if(condition: Bool[Array, ""], old: Any, new: Any) -> Any:
    """`new` where the condition holds, else `old`, leaf by leaf."""
    return jax.tree.map(lambda before, after: jnp.where(condition, after, before), old, new)


@checked
def adam(
    learning_rate: Positive | None,
    *,
    max_grad_norm: Positive | None = None,
    weight_decay: NonNegative | None = None,
) -> optax.GradientTransformation:
    """Adam with optional clipping of the global gradient norm (before it) and decoupled weight decay (after it).

    Without a learning rate the result is Adam's direction, for a rate of another kind (`by_updates`, `by_kl`) after it.

    Raises:
        ValueError: For a rate or norm that is not above zero, or a negative decay.
    """
    links = [] if max_grad_norm is None else [optax.clip_by_global_norm(max_grad_norm)]
    links.append(optax.scale_by_adam(eps=1e-8))
    if weight_decay is not None:
        links.append(optax.add_decayed_weights(weight_decay))
    if learning_rate is not None:
        links.append(optax.scale_by_learning_rate(learning_rate))
    return optax.chain(*links)


def in_one_vector(optimiser: optax.GradientTransformation) -> optax.GradientTransformation:
    """The same transformation of all parameters laid end to end: a few operations in place of a few for each array.

    Not the default: on a CPU of two threads an update of SAC with networks of 256 x 256 takes twice the processor time
    with it. Its state holds vectors; for what treats all numbers alike, as Adam and the clipping of a global norm do,
    nothing else changes. A single array, and arrays of several types, are left as they are.
    """

    def joined(tree: PyTree) -> PyTree:
        leaves = jax.tree.leaves(tree)
        if len(leaves) < 2 or len({leaf.dtype for leaf in leaves}) > 1:
            return tree
        return jnp.concatenate([jnp.ravel(leaf) for leaf in leaves])

    def parted(result: PyTree, like: PyTree) -> PyTree:
        leaves, structure = jax.tree.flatten(like)
        if jax.tree.structure(result) == structure:
            return result
        ends = np.cumsum([leaf.size for leaf in leaves])
        parts = [
            jnp.reshape(result[end - leaf.size : end], leaf.shape)
            for end, leaf in zip(ends, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, parts)

    def init(params: PyTree) -> PyTree:
        return optimiser.init(joined(params))

    def update(updates: PyTree, state: PyTree, params: PyTree = None) -> tuple[PyTree, PyTree]:
        given = None if params is None else joined(params)
        result, state = optimiser.update(joined(updates), state, given)
        return parted(result, updates), state

    return optax.GradientTransformation(init, update)


def all_finite(tree: PyTree) -> Array:
    """Whether every inexact array in `tree` is finite: one boolean scalar."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    return (
        jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.asarray(True)
    )
