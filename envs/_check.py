"""What an environment promises, checked on the environment itself: for adapters, and for environments of your own."""

import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpolicy import _checks
from dpolicy._types import Key
from dpolicy.envs._check_episodes import different, episode_checks, record
from dpolicy.envs._promises import Violation, check_reset, check_state, check_step, raised
from dpolicy.envs.protocol import Environment, Spec
from dpolicy.envs.stepping import BrokenPromise
from dpolicy.envs.vector import Vector

_COPIES = 4
_MOST_STEPS = 1100
# Above so many operations a step is not run without compilation: physics takes minutes that way.
_MOST_OPERATIONS = 500


def default_steps(time_limit: int) -> int:
    """How many steps of each copy show every end of an episode: a few more than the time limit, within bounds."""
    return min(time_limit + 8, _MOST_STEPS)


class Checked(NamedTuple):
    """What `check` found.

    Attributes:
        env: Name of the environment.
        passed: Every check that passed, in order: its name and what was seen.
        violation: The first promise that is broken, in one sentence; None where all are kept.
    """

    env: str
    passed: tuple[tuple[str, str], ...]
    violation: str | None


def _called(what: str, function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`, an exception of the environment's told as a violation."""
    try:
        return function(*args)
    except BrokenPromise as inner:
        raise Violation(inner.violation) from inner
    # `SystemExit`, too: an environment that ends the process would pass for one without a violation.
    except (Exception, SystemExit) as error:
        raise Violation(f"{what} {raised(error)}") from error


def _example(env: Environment) -> tuple[Any, Any, Any]:
    """Abstract arguments of `step`."""
    state, _ = jax.eval_shape(env.reset, jax.random.key(0))
    return state, jax.ShapeDtypeStruct((env.spec.action_size,), float), jax.random.key(0)


def _check_reset(env: Environment) -> str:
    def reset(key: Key) -> Any:
        result = _called("reset", env.reset, key)
        check_reset(env.spec, result)
        return result

    state, obs = jax.eval_shape(reset, jax.random.key(0))
    return f"{len(jax.tree.leaves(state))} arrays of state, obs {obs.dtype}{list(obs.shape)}"


def _check_step(env: Environment) -> str:
    def step(*args: Any) -> Any:
        result = _called("step", env.step, *args)
        check_step(env.spec, result)
        return result[1:]

    obs, *_ = jax.eval_shape(step, *_example(env))
    return f"action [{env.spec.action_size}], obs {obs.dtype}{list(obs.shape)}, reward and terminated scalar"


def _check_state(env: Environment) -> str:
    def step(state: Any, action: Any, key: Key) -> None:
        check_state(state, env.step(state, action, key)[0])

    jax.eval_shape(step, *_example(env))
    return "structure, shapes and types are kept"


def _programs(env: Environment) -> Iterator[tuple[str, Any]]:
    # Fresh functions, or jax would not look at them a second time.
    yield "reset", jax.make_jaxpr(lambda key: env.reset(key))(jax.random.key(0))
    yield "step", jax.make_jaxpr(lambda *args: env.step(*args))(*_example(env))


def _check_purity(env: Environment) -> str:
    shown = lambda program: re.sub(r"0x[0-9a-f]+", "", str(program.jaxpr))
    for (name, first), (_, second) in zip(_programs(env), _programs(env), strict=True):
        constants = zip(first.consts, second.consts, strict=False)
        if shown(first) != shown(second) or any(different(a, b) for a, b in constants):
            raise Violation(
                f"{name} must be a pure function of its arguments: looked at twice, it is two different programs "
                "(random numbers or counters of Python, or attributes that change)."
            )
    return "looked at twice, they are the same program"


def _operations(jaxpr: Any) -> int:
    inner = [value for eqn in jaxpr.eqns for value in jax.tree.leaves(eqn.params, is_leaf=_is_jaxpr)]
    return len(jaxpr.eqns) + sum(_operations(getattr(v, "jaxpr", v)) for v in inner if _is_jaxpr(v))


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, "eqns") or hasattr(getattr(value, "jaxpr", None), "eqns")


def _transition(env: Environment) -> Callable[[Key], Any]:
    def transition(key: Key) -> Any:
        reset_key, action_key, step_key = jax.random.split(key, 3)
        state, obs = env.reset(reset_key)
        action = jax.random.uniform(action_key, (env.spec.action_size,), minval=-1.0, maxval=1.0)
        return obs, *env.step(state, action, step_key)[1:]

    return transition


def _check_jit(env: Environment, key: Key, compiled: Callable[[Key], Any]) -> str:
    size = max(_operations(program.jaxpr) for _, program in _programs(env))
    if size > _MOST_OPERATIONS:
        return f"not run: {size:,} operations would take long one by one"
    with jax.disable_jit():
        plain = _called("without jit, reset or step", _transition(env), key)
    for part, a, b in zip(("reset's obs", "obs", "reward", "terminated"), plain, compiled(key), strict=True):
        if different(a, b, tolerance=1e-4):
            raise Violation(
                f"without jit, {part} of the same transition is {_short(a)}, with it {_short(b)}."
            )
    return "the same without compilation"


def _short(value: Any) -> str:
    return np.array2string(np.asarray(value), precision=5, threshold=6)


def _check_vmap(env: Environment, key: Key, compiled: Callable[[Key], Any]) -> str:
    keys = jax.random.split(key, _COPIES)
    batch = _called("under vmap, reset or step", jax.jit(jax.vmap(_transition(env))), keys)
    for i, one in enumerate(keys):
        for part, many, a in zip(
            ("reset's obs", "obs", "reward", "terminated"), batch, compiled(one), strict=True
        ):
            # A simulator's solver may stop an iteration earlier when it runs beside others.
            if different(many[i], a, tolerance=1e-3):
                raise Violation(
                    f"under vmap, {part} of the same transition is {_short(many[i])}, alone it is {_short(a)}."
                )
    return f"{_COPIES} together as each alone"


def _check_samples(env: Environment, states: Any, rows: int, key: Key) -> Iterator[tuple[str, str]]:
    """Determinism and action bounds, at states of running episodes."""
    action_key, *keys = jax.random.split(key, 3)
    raw = jax.random.uniform(action_key, (rows, env.spec.action_size), minval=-3.0, maxval=3.0)
    step = jax.jit(jax.vmap(env.step, in_axes=(0, 0, None)))
    first, second = (step(states, raw, keys[0]) for _ in range(2))
    if path := different(first, second):
        raise Violation(
            f"step must be decided by state, action and key: called twice, its results differ{path}."
        )
    yield "determinism", "the same again under the same key"
    parts = ("state", "observation", "reward", "terminated")
    clipped = step(states, jnp.clip(raw, -1.0, 1.0), keys[0])
    for part, a, b in zip(parts, first, clipped, strict=True):
        if path := different(a, b, tolerance=1e-5):
            raise Violation(
                f"actions outside [-1, 1] must act as the clipped ones, but the {part}{path.rstrip()} differs."
            )
    yield "actions", "outside [-1, 1] they act as the clipped ones"


def _checks_of(env: Any, key: Key, steps: int, vectorise: Any) -> Iterator[tuple[str, str]]:
    """Every check that passes, in order; raises at the first that does not."""
    if not isinstance(env, Environment) or not isinstance(getattr(env, "spec", None), Spec):
        raise Violation(f"env must be a dpolicy.envs.Environment with a Spec, got {type(env).__name__}.")
    spec = env.spec
    yield "specification", f"obs {spec.obs_size}, action {spec.action_size}, time limit {spec.time_limit}"
    yield "reset", _check_reset(env)
    yield "step", _check_step(env)
    yield "state", _check_state(env)
    yield "purity", _check_purity(env)
    jit_key, vmap_key, record_key, sample_key = jax.random.split(key, 4)
    compiled = jax.jit(_transition(env))
    yield "jit", _check_jit(env, jit_key, compiled)
    yield "vmap", _check_vmap(env, vmap_key, compiled)
    recorded = _called("a batch of episodes", record, vectorise(env, _COPIES), record_key, steps)
    yield from _check_samples(env, recorded.running, _COPIES, sample_key)
    yield from episode_checks(env, recorded)


def check(
    env: Any,
    key: Key | None = None,
    *,
    steps: int | None = None,
    vectorise: Callable[[Environment, int], Any] | None = None,
) -> Checked:
    """Check what every environment promises, up to the first promise that is broken.

    In this order: sizes, shapes and types as specified; a state whose structure is kept; pure functions; the same
    results without `jit` and under `vmap`; results decided by the key; actions outside [-1, 1] as the clipped ones;
    finite numbers; and, over whole episodes of random actions in a batch: flags, time limit, clocks, starts after an
    end, and terminal observations that are the true successors.

    Args:
        env: The environment.
        key: Random key; always the same by default.
        steps: Steps of each of the four copies that play episodes; by default a little more than the time limit, but
            no more than 1100.
        vectorise: `(env, num) -> Vector`; another batching than the library's own may be checked, too.

    Returns:
        What was checked and what, if anything, is wrong. Nothing is raised for a broken environment.

    Raises:
        ValueError: For `steps` below 1, or a `vectorise` that is no function.
    """
    limit = env.spec.time_limit if isinstance(getattr(env, "spec", None), Spec) else 1
    steps = default_steps(limit) if steps is None else steps
    _checks.integer("steps", steps)
    if vectorise is not None:
        _checks.function("vectorise", vectorise, "(env, num) -> Vector")
    key = jax.random.key(0) if key is None else key
    pooled = lambda env, num: Vector(env, num, resets="pool", pool_size=8)
    passed: list[tuple[str, str]] = []
    name = env.spec.name if isinstance(getattr(env, "spec", None), Spec) else type(env).__name__
    try:
        for entry in _checks_of(env, key, steps, vectorise or pooled):
            passed.append(entry)
    except Violation as violation:
        return Checked(name, tuple(passed), f"{name}: {violation}")
    except (Exception, SystemExit) as error:
        # Where an environment that was called without harm before is called again.
        return Checked(name, tuple(passed), f"{name}: after the check of {passed[-1][0]} it {raised(error)}")
    return Checked(name, tuple(passed), None)
