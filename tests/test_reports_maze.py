"""The report on a maze, on policies whose behaviour is known; and the maze drawn."""

import json
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.envs import Maze, make
from dpolicy.plots import draw_maze, draw_paths, draw_values, maze_figure, new_figure
from dpolicy.reports import maze as reports
from dpolicy.reports import report_files, report_for
from dpolicy.train.program import TrainState

ENV = Maze()


def over_the_top(obs, key):
    """Up to the northern corridor, through it, and down to the goal."""
    x, y = obs
    up, down = jnp.array([0.0, 1.0]), jnp.stack([jnp.sign(ENV.goal[0] - x), -jnp.ones(())])
    return jnp.where(x > 3.5, down, jnp.where(y < 2.6, up, jnp.array([1.0, 0.0])))


def by_a_coin(state):
    """Like `over_the_top`, or straight against the wall, by the number of the seed."""
    return lambda obs, key: jnp.where(state > 0, over_the_top(obs, key), jnp.array([1.0, 0.0]))


@pytest.fixture(scope="module")
def found():
    """Walks of one seed that stands before the wall and one that arrives."""
    return reports.measure(ENV, jnp.arange(2), by_a_coin, episodes=4)


def test_walks_of_known_policies(found):
    np.testing.assert_array_equal(found.success, [[False] * 4, [True] * 4])
    np.testing.assert_array_equal(found.routes, [[-1] * 4, [0] * 4])
    np.testing.assert_array_equal(found.lengths[0], 100)
    assert found.lengths[1].min() > 36 and found.lengths[1].max() < 50
    # A path ends where the episode did, and stays there.
    last = found.lengths[1, 0]
    goal, path = np.asarray(ENV.goal), found.paths[1, 0]
    assert (path[last:] == path[-1]).all() and np.linalg.norm(path[-1] - goal) < 0.5
    assert np.linalg.norm(path[last - 1] - goal) >= 0.5
    np.testing.assert_array_equal(reports.shares(found, 4), [[0, 0, 0, 0], [1, 0, 0, 0]])
    label, success, steps, routes = reports.row("two", found, ENV)
    assert (label, routes) == ("two", "a/b/c/d: 0/0/0/0, 100/0/0/0")
    assert success.startswith("50") and float(steps.split()[0]) == pytest.approx(
        found.lengths[1].mean(), abs=0.5
    )
    none = jax.tree.map(lambda leaf: leaf[:1], found)
    assert reports.row("none", none, ENV)[2] == "-"


def test_the_report_writes_what_it_says(unchecked_types, tmp_path, capsys, monkeypatch):
    assert report_for("maze/four") is reports.report and report_for("maze/large") is reports.report
    monkeypatch.setattr(reports, "policy_of", lambda algorithm, state, mode: by_a_coin(state.algorithm))
    none = jnp.zeros((), jnp.int32)
    seed = lambda number: TrainState(number, None, None, jax.random.key(0), none, number > 0, none)
    state = jax.vmap(seed)(jnp.arange(2))
    run = SimpleNamespace(env=ENV, algorithm=None, algorithm_name="mine", state=state)
    rows = reports.report(run, tmp_path, progress=False, episodes=4)
    assert [row[0] for row in rows] == ["mine, evaluate", "mine, explore"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(report_files("maze/four"))
    # The seed that failed is left out: it never arrives.
    assert "| mine, explore | 100 |" in (tmp_path / "maze.md").read_text()
    assert json.loads((tmp_path / "maze.json").read_text())[0]["routes"] == [[1.0, 0.0, 0.0, 0.0]]
    assert "success %" in capsys.readouterr().out


def test_other_environments_have_no_routes():
    with pytest.raises(ValueError, match="env must be a maze, wrapped or not, got multigoal/multigoal"):
        reports.maze_of(make("multigoal"))
    assert reports.maze_of(make("maze/four", frame_stack=2, action_repeat=2)).rows == ENV.rows


def test_values_are_drawn_where_a_mass_can_be():
    _, axes = new_figure()
    env = Maze(inertia=0.5)
    image = draw_values(axes[0, 0], env, lambda obs: 10.0 * obs[1] + obs[2] + obs[3], points=2)
    shown = image.get_array()
    assert shown.shape == (18, 32)
    free = np.asarray(env.free).T
    np.testing.assert_array_equal(~shown.mask, np.kron(free, np.ones((2, 2), bool)))
    # The first row of cells that are free is the second from the south: 3.25 below the middle, and 2.75.
    np.testing.assert_allclose(shown[2:4, 2], [-32.5, -27.5], rtol=1e-5)
    assert image.get_clim() == pytest.approx((-32.5, 32.5))
    limited = draw_values(axes[0, 0], env, lambda obs: obs[0], points=1, limits=(-1.0, 2.0))
    assert limited.get_clim() == (-1.0, 2.0)
    with pytest.raises(ValueError, match="value must return"):
        draw_values(axes[0, 0], env, lambda obs: obs)


def test_a_maze_is_drawn_with_its_marks_and_routes(tmp_path):
    _, axes = new_figure()
    draw_maze(axes[0, 0], ENV)
    letters = {text.get_text(): text.get_position() for text in axes[0, 0].texts}
    assert set(letters) == set("SGabcd")
    np.testing.assert_allclose(letters["a"], ENV.gates[0])
    walls = np.ma.filled(axes[0, 0].images[0].get_array(), False)
    np.testing.assert_array_equal(walls.astype(bool), ~np.asarray(ENV.free).T)
    before = len(axes[0, 0].lines)
    draw_paths(
        axes[0, 0],
        ENV,
        [np.stack([ENV.start, ENV.gates[k], ENV.goal]) for k in (0, 1, 0)] + [ENV.start[None]],
    )
    colours = [line.get_color() for line in axes[0, 0].lines[before:]]
    assert colours[0] == colours[2] != colours[1] and colours[3] == "0.55"
    path = maze_figure(ENV, [("one", []), ("two", [])], tmp_path / "maze.png", title="both", across=1)
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="panels must be"):
        maze_figure(ENV, [], tmp_path / "none.png")
