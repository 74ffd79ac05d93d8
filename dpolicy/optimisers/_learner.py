"""A model together with the state of the optimiser that trains it."""

from collections.abc import Callable
from typing import Annotated, Any, Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, PyTree

from dpolicy import _checks
from dpolicy._settings import NonNegative, Positive, checked, within
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


def _decays(parameters: PyTree) -> PyTree:
    """Which arrays of a model decay: all but those that its modules name in `undecayed`."""
    held: set[int] = set()

    def note(node: Any) -> bool:
        for name in getattr(type(node), "undecayed", ()):
            held.update(map(id, jax.tree.leaves(getattr(node, name))))
        return False

    jax.tree.leaves(parameters, is_leaf=note)
    return jax.tree.map(lambda leaf: id(leaf) not in held, parameters)


@checked
def adam(
    learning_rate: Positive | None,
    *,
    b1: Annotated[Number, within(0, 1, open_high=True)] = 0.9,
    b2: Annotated[Number, within(0, 1, open_high=True)] = 0.999,
    max_grad_norm: Positive | None = None,
    weight_decay: NonNegative | None = None,
) -> optax.GradientTransformation:
    """Adam with optional clipping of the global gradient norm (before it) and decoupled weight decay (after it).

    Its first moment decays by `b1` a step, its second by `b2`. Without a learning rate the result is Adam's direction,
    for a rate of another kind (`by_updates`, `by_kl`) after it. What a module names in `undecayed`, a tuple on its
    class, does not decay: what is no parameter, and positive numbers that are learned through an inverse.

    Raises:
        ValueError: For a rate or norm that is not above zero, or a negative decay.
    """
    links = [] if max_grad_norm is None else [optax.clip_by_global_norm(max_grad_norm)]
    links.append(optax.scale_by_adam(b1=b1, b2=b2, eps=1e-8))
    if weight_decay is not None:
        links.append(optax.add_decayed_weights(weight_decay, mask=_decays))
    if learning_rate is not None:
        links.append(optax.scale_by_learning_rate(learning_rate))
    return optax.chain(*links)


def all_finite(tree: PyTree) -> Array:
    """Whether every inexact array in `tree` is finite: one boolean scalar."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if eqx.is_inexact_array(leaf)]
    return (
        jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves])) if leaves else jnp.asarray(True)
    )
