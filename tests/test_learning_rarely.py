"""A branch that is taken now and then: its values under any `vmap`, and that it is not computed in between."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._rarely import rarely

COUNTED = []


def counted(scale, due, x):
    """x + scale times the first coordinate where it is due, else x; whoever runs is counted."""

    def run(tree):
        jax.debug.callback(lambda: COUNTED.append(1))
        return {"x": tree["x"] + scale * tree["x"][0], "metric": scale}

    wait = lambda tree, shapes: {"x": tree["x"], "metric": jnp.full(shapes["metric"].shape, -1.0)}
    return rarely(due, run, wait, {"x": x})


@pytest.mark.parametrize(
    "axes", [(0, 0, 0), (None, 0, 0), (0, None, 0), (0, 0, None), (0, None, None), (None, 0, None)]
)
def test_values_are_those_of_a_conditional(axes):
    def plain(scale, due, x):
        run = lambda x: {"x": x + scale * x[0], "metric": scale}
        return jax.lax.cond(due, run, lambda x: {"x": x, "metric": -jnp.ones(())}, x)

    given = (jnp.arange(3.0) + 1, jnp.asarray([True, False, True]), jnp.arange(6.0).reshape(3, 2) + 2)
    given = tuple(value if axis == 0 else value[0] for value, axis in zip(given, axes, strict=True))
    found, expected = (jax.jit(jax.vmap(f, axes))(*given) for f in (counted, plain))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize(
    ("due", "times"),
    [([[False] * 3] * 2, 0), ([[False] * 3, [False, True, False]], 1), ([[True] * 3] * 2, 1)],
)
def test_a_sweep_of_sweeps_runs_it_only_while_it_is_due_for_one(due, times):
    """Scales by the outer axis, states by both: 2 x 3 in one program, in a loop as updates are."""
    scales, states = jnp.asarray([1.0, 2.0]), jnp.arange(12.0).reshape(2, 3, 2)

    def loop(scale, due, x):
        out = jax.lax.scan(lambda x, _: (counted(scale, due, x)["x"], None), x, length=1)[0]
        return out

    run = jax.jit(jax.vmap(jax.vmap(loop, (None, 0, 0))))
    COUNTED.clear()
    found = jax.block_until_ready(run(scales, jnp.asarray(due), states))
    jax.effects_barrier()
    assert len(COUNTED) == times
    first = np.asarray(scales)[:, None] * np.asarray(states)[..., 0]
    np.testing.assert_array_equal(found, states + np.where(due, first, 0)[..., None])


def test_alone_it_is_a_conditional():
    COUNTED.clear()
    for due in (False, True):
        out = jax.jit(counted)(jnp.asarray(2.0), jnp.asarray(due), jnp.ones(2))
        jax.effects_barrier()
        np.testing.assert_array_equal(out["x"], jnp.full(2, 3.0 if due else 1.0))
    assert len(COUNTED) == 1
