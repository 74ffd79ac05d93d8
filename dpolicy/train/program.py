"""What every training program is: a pure `init` and a pure `step`, to be compiled by whoever runs it."""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from dpolicy import _checks
from dpolicy._types import Key, Metrics, Mode
from dpolicy.algorithm import Algorithm, Family, check_algorithm, check_horizon
from dpolicy.envs import Environment, Spec
from dpolicy.optimisers import all_finite, keep_if
from dpolicy.train.normalise import Normaliser, RewardScale


class Program(NamedTuple):
    """Training as two pure functions.

    `jit(vmap(init))(keys)` and then `jit(vmap(step), donate_argnums=0)` again and again is a seed sweep.

    Attributes:
        init: `key -> state`.
        step: `state -> (state, metrics)`: one chunk of training and one evaluation.
        steps_per_call: Environment steps (offline: gradient steps) in one `step`.
        algorithm: What is being trained.
        steps_at_start: Environment steps that `init` takes.
        remarks: Sentences to be said when a run starts.
    """

    init: Callable[[Key], Any]
    step: Callable[[Any], tuple[Any, Metrics]]
    steps_per_call: int
    algorithm: Algorithm
    steps_at_start: int = 0
    remarks: tuple[str, ...] = ()


class TrainState(eqx.Module):
    """Everything a run needs to go on: a checkpoint is this pytree."""

    algorithm: Any
    normaliser: Normaliser | None
    experience: Any  # environments, and the replay where there is one
    key: Key
    steps: Int[Array, "*seeds"]
    alive: Bool[Array, "*seeds"]
    failed_at: Int[Array, "*seeds"]
    rewards: RewardScale | None = None


def checked_parts(algorithm: Any, env: Any, family: Family) -> Algorithm:
    """The algorithm with functions that look, while they are traced, at what it returns.

    Raises:
        ValueError: For what is no algorithm of a program's family or no environment, such as a recipe that was not
            called.
    """
    check_algorithm(algorithm)
    _checks.one_of("algorithm.family", algorithm.family, (family,))
    check_horizon(algorithm)
    called = f", as {env.__name__}() is" if isinstance(env, type) else ""
    _checks.instance("env", env, Environment, f"an Environment{called}")
    name, size = algorithm.name, env.spec.action_size

    placed = "place" in inspect.signature(algorithm.act).parameters

    def act(state: Any, obs: Any, key: Key, mode: Mode, place: Any = None) -> tuple[Any, dict[str, Any]]:
        result = algorithm.act(state, obs, key, mode, *([place] if placed else []))
        return _acted(f"act of {name}", result, size)

    def update(state: Any, batch: Any, key: Key) -> tuple[Any, Metrics]:
        return _updated(f"update of {name}", state, algorithm.update(state, batch, key))

    return algorithm._replace(act=act, update=update)


def _acted(what: str, result: Any, size: int) -> tuple[Any, dict[str, Any]]:
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise ValueError(f"{what} must return (action, extras), with a dict of extras, got {_kind(result)}.")
    action = _checks.returned(f"{what}, as the action,", result[0], (size,))
    if not jnp.issubdtype(jnp.result_type(action), jnp.floating):
        raise ValueError(f"{what} must return an action of floats, got {jnp.result_type(action)}.")
    return result


def _updated(what: str, state: Any, result: Any) -> tuple[Any, Metrics]:
    if not isinstance(result, tuple) or len(result) != 2 or not isinstance(result[1], dict):
        raise ValueError(f"{what} must return (state, metrics), with a dict of metrics, got {_kind(result)}.")
    new, metrics = result
    before, after = _shapes(state), _shapes(new)
    for path in [*before, *after]:
        if before.get(path) != after.get(path):
            was, became = (shapes.get(path, "missing") for shapes in (before, after))
            raise ValueError(
                f"{what} must keep structure, shapes and types of its state, but state{path} was {was} and is {became}."
            )
    for name, value in metrics.items():
        _checks.returned(f"{what}, as the metric {name!r},", value)
    return result


def _kind(result: Any) -> str:
    return f"a tuple of {len(result)}" if isinstance(result, tuple) else f"a {type(result).__name__}"


def _shapes(tree: Any) -> dict[str, str]:
    leaves = [
        (path, leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if eqx.is_array_like(leaf)
    ]
    return {
        jax.tree_util.keystr(path): f"{jnp.result_type(leaf)}{list(jnp.shape(leaf))}" for path, leaf in leaves
    }


def spec_of(env: Environment, normalise_observations: bool) -> Spec:
    """What an algorithm is started with: the environment's sizes, and whether it will see standardised observations."""
    _checks.boolean("normalise_observations", normalise_observations)
    return dataclasses.replace(env.spec, standardised=normalise_observations)


def _watched(metrics: Metrics) -> Metrics:
    """Losses and norms of gradients; no loss that is a term of another one, where its coefficient may be zero."""

    def is_term(name: str) -> bool:
        rooms = name.split("/")[:-1]
        return any("/".join([*rooms[:i], "loss"]) in metrics for i in range(len(rooms)))

    named = {name: name.rpartition("/")[2] for name in metrics}
    return {
        name: metrics[name]
        for name, last in named.items()
        if last == "grad_norm" or (last == "loss" and not is_term(name))
    }


def _sound(metrics: Metrics) -> Bool[Array, ""]:
    """Whether every loss and every norm of a gradient is finite; the norm is not where its square, Adam's, is not."""
    found = [jnp.asarray(value).astype(float) for value in _watched(metrics).values()]
    return jnp.all(jnp.isfinite(jnp.stack(found))) if found else jnp.asarray(True)


def _vouched_for(metrics: Metrics) -> bool:
    """Whether every loss stands beside the norm of its gradient, as `descend` reports it."""
    losses = [name for name in _watched(metrics) if not name.endswith("grad_norm")]
    return bool(losses) and all(name.removesuffix("loss") + "grad_norm" in metrics for name in losses)


def guard(
    old: Any, new: Any, metrics: Metrics, state: TrainState, steps: Array, *, read: bool = False
) -> tuple[Any, Array, Array]:
    """Keep `old` where a loss or the norm of its gradient is not finite, or the state after an update is not.

    One diverged seed must not spoil the others, and no other metric that is out of range a healthy one. To read a whole
    state is a fifth of the kernels of a small update. Where every loss stands beside the norm of its gradient it is not
    read: from a finite state, a finite gradient whose square is finite takes Adam to a finite one, and what follows the
    parameters is a mean of finite numbers. What this does not see, such as a learning rate that is nan, `settled` does.

    Args:
        old: The state before the update.
        new: The state after it.
        metrics: Of the update.
        state: Says whether the seed was alive.
        steps: Those taken so far.
        read: Whether the state is read in any case.

    Returns:
        What to go on with, whether the seed is alive, and the step at which it failed (-1).
    """
    alive = state.alive & _sound(metrics)
    if read or not _vouched_for(metrics):
        alive = alive & all_finite(new)
    failed_at = jnp.where(state.alive & ~alive, steps, state.failed_at)
    return keep_if(alive, old, new), alive, failed_at


def settled(begun: TrainState, ended: TrainState) -> TrainState:
    """The state after a chunk, with what was learned as it was when the chunk began where it is not finite now.

    No state that is not finite is ever kept: where `guard` has missed that it is, the seed ends without the chunk.
    """
    parts = lambda s: (s.algorithm, s.normaliser, s.rewards)
    finite = all_finite(parts(ended))
    kept = keep_if(finite, parts(begun), parts(ended))
    failed_at = jnp.where(ended.alive & ~finite, ended.steps, ended.failed_at)
    where = lambda s: (*parts(s), s.alive, s.failed_at)
    new = (*kept, ended.alive & finite, failed_at)
    return eqx.tree_at(where, ended, new, is_leaf=lambda leaf: leaf is None)
