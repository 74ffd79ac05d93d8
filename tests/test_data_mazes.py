"""Data sets of the mazes: who walks how, what is stored, and what is nowhere in it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.data import check_order, load_npz, maze_data, relabelled, save_npz
from dpolicy.data.mazes import KINDS, aims
from dpolicy.data.reading import load_set
from dpolicy.envs import Maze, MultiGoal, mazes

ENV = Maze()


@pytest.fixture(scope="module")
def sets():
    """One of each kind, 3,000 rows."""
    return {kind: maze_data(kind, ENV, steps=3000, seed=3) for kind in KINDS}


def episodes(data):
    """First and last row of each, by what follows: a row that terminated may be gone on from."""
    obs, led_to = np.asarray(data.obs), np.asarray(data.next_obs)
    last = np.append(np.flatnonzero((led_to[:-1] != obs[1:]).any(axis=1)), len(obs) - 1)
    return np.stack([np.append(0, last[:-1] + 1), last], axis=1)


def test_rows_are_what_the_maze_does(sets):
    step = jax.jit(
        jax.vmap(lambda obs, action: ENV.step(ENV.reset_at(obs)[0], action, jax.random.key(0))[1:])
    )
    for kind, data in sets.items():
        assert data.reward.shape == (3000,), kind
        check_order(data)
        next_obs, reward, terminated = step(data.obs, data.action)
        np.testing.assert_allclose(next_obs, data.next_obs, atol=2e-6)
        np.testing.assert_array_equal(reward, data.reward)
        np.testing.assert_array_equal(terminated, data.terminated)
        assert float(jnp.abs(data.action).max()) == 1.0
        assert not (data.terminated & data.truncated).any()
        # Whatever follows, an episode's last row is an end; and there are no other truncations.
        last = episodes(data)[:, 1]
        assert data.done[last].all()
        np.testing.assert_array_equal(np.setdiff1d(np.flatnonzero(data.truncated), last), [])


def test_navigation_goes_on_where_it_has_been(sets):
    lengths = np.diff(episodes(sets["navigate"]), axis=1)[:, 0] + 1
    assert (lengths == 200).all()
    assert len(np.unique(ENV.cell(sets["navigate"].obs), axis=0)) > 76  # of 80 cells
    ends = np.asarray(sets["navigate"].terminated)
    assert (
        ends.sum() > 0
        and (episodes(sets["navigate"])[:, 1] != np.flatnonzero(ends)[:, None]).all(axis=1).any()
    )


def test_play_is_between_places_and_diverse_between_any(sets):
    """Episodes begin and end within a cell of what they were asked for, `start_range` and `goal_radius` around it."""
    places = np.concatenate([[ENV.start], [ENV.goal], ENV.gates])
    for kind, few in (("play", True), ("diverse", False)):
        data, found = sets[kind], episodes(sets[kind])
        begin, end = np.asarray(data.obs)[found[:-1, 0]], np.asarray(data.next_obs)[found[:-1, 1]]
        apart = lambda at: np.abs(at[:, None] - places[None]).max(axis=-1).min(axis=1)
        assert (apart(begin).max() <= 0.25) == few
        assert (apart(end).max() <= 0.5) == few


def test_expert_data_take_all_routes_alike(sets):
    data, found = sets["expert"], episodes(sets["expert"])
    routes = [int(ENV.route(data.obs[a : b + 1])) for a, b in found[:-1]]
    np.testing.assert_array_equal(routes, np.arange(len(routes)) % 4)
    assert data.terminated[found[:-1, 1]].all() and data.terminated.sum() == len(found) - 1
    # 13 cells less the goal's radius at 0.4 a step are 31.25 steps; noise and the starts' spread cost few.
    lengths = np.diff(found[:-1], axis=1)[:, 0] + 1
    assert lengths.min() >= 30 and lengths.mean() < 36
    # The four directions at the start are what a policy must not average.
    first = np.asarray(data.action)[found[:-1, 0]]
    means = np.stack([first[np.asarray(routes) == k].mean(axis=0) for k in range(4)])
    assert (np.diff(means[:, 1]) < -0.2).all() and (means[:, 0] > 0.8).all()


def test_no_stitch_trajectory_covers_the_way_but_together_they_do(sets):
    data, found = sets["stitch"], episodes(sets["stitch"])
    moves, free = mazes.distances(ENV.rows), mazes.free_cells(ENV.rows)
    number = np.zeros(ENV.size, int)
    number[tuple(free.T)] = np.arange(len(free))
    of = lambda obs: number[tuple(np.asarray(ENV.cell(obs)).T)]
    begin, end = of(data.obs), of(data.next_obs)
    start, goal = (mazes.cell_index(ENV.rows, mazes.marked(ENV.rows, mark)) for mark in "SG")
    farthest = max(moves[begin[a], end[a : b + 1]].max() for a, b in found)
    assert 4 <= farthest < 8 < moves[start, goal]
    assert (found[:, 1] - found[:, 0]).max() < 20
    # Cells that are joined by a step of any trajectory: along those the goal is reached, through every gate.
    joined = np.eye(len(free), dtype=bool)
    joined[begin, end] = True
    for gate in mazes.gates(ENV.rows):
        others = [mazes.cell_index(ENV.rows, other) for other in mazes.gates(ENV.rows) if other != gate]
        ways = joined.astype(np.int64)
        ways[others] = ways[:, others] = 0
        assert np.linalg.matrix_power(np.minimum(ways, 1), 8)[start].any()
        reached = np.arange(len(free)) == start
        for _ in range(60):
            reached = reached @ ways > 0
        assert reached[goal]


def test_the_same_seed_gives_the_same_rows(sets):
    again, other = (maze_data("play", ENV, steps=500, seed=seed) for seed in (3, 4))
    np.testing.assert_array_equal(again.obs, sets["play"].obs[:500])
    assert (np.asarray(other.obs) != again.obs).mean() > 0.9
    still = maze_data("expert", ENV, steps=200, noise=0.0)
    # Without noise the action has the greatest norm that the box allows, until the aim is near.
    assert (np.abs(np.asarray(still.action)).max(axis=1) > 0.999).mean() > 0.9


def test_the_planner_aims_at_what_it_sees():
    """From the start towards the goal: not into the wall in between, but to the mouth of an inner corridor."""
    cells, at = mazes.free_cells(ENV.rows), lambda cell: mazes.cell_index(ENV.rows, cell)
    start, goal = (at(mazes.marked(ENV.rows, mark)) for mark in "SG")
    aim = aims(ENV.rows)
    assert tuple(cells[aim[goal, start]]) in {(4, 3), (4, 5), (5, 3), (5, 5)}
    assert aim[start, start] == start
    assert tuple(cells[aim[at((1, 7)), start]]) == (1, 7)  # straight up


def test_relabelled_for_another_goal(sets):
    data = sets["navigate"]
    rows = [row.replace("G", ".") for row in ENV.rows]
    rows[3] = rows[3].replace("b", "G")
    env = Maze("\n".join(rows), reward="success", goal_radius=0.75)
    found = relabelled(data, env)
    away = np.linalg.norm(np.asarray(data.next_obs) - np.asarray(ENV.gates[1]), axis=1)
    np.testing.assert_array_equal(found.terminated, away < 0.75)
    np.testing.assert_array_equal(found.reward, (away < 0.75).astype(float))
    assert found.terminated.sum() > 20
    # The walks that passed the old goal went on there; what ends are the ends of walks.
    last = episodes(data)[:, 1]
    np.testing.assert_array_equal(np.flatnonzero(found.truncated), last[~np.asarray(found.terminated)[last]])
    back = relabelled(found, ENV)
    np.testing.assert_array_equal(back.terminated, data.terminated)
    np.testing.assert_array_equal(back.reward, data.reward)
    np.testing.assert_array_equal(back.truncated, data.truncated)


def test_inertia_and_files(tmp_path):
    env = Maze("large", inertia=0.6)
    data = maze_data("expert", env, steps=400)
    assert data.obs.shape == (400, 4) and int(data.terminated.sum()) >= 4
    loaded = load_npz(save_npz(tmp_path / "maze.npz", data))
    np.testing.assert_array_equal(loaded.truncated, data.truncated)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: maze_data("medium"),
            "kind must be one of navigate, play, diverse, expert, stitch; got 'medium'",
        ),
        (
            lambda: maze_data("play", "small"),
            "layout must be one of four, large, or a text of rows, got 'small'",
        ),
        (lambda: maze_data("play", steps=0), "steps must be an integer of at least 1, got 0"),
        (lambda: maze_data("play", seed=-1), "seed must be an integer"),
        (lambda: maze_data("play", noise=-1.0), "noise must be a finite number"),
        (
            lambda: maze_data("expert", "####\n#SG#\n####"),
            "kind must be one of navigate, diverse, stitch in a maze without gates, got 'expert'",
        ),
        (lambda: relabelled(None, ENV), "data must be a Transition"),
    ],
)
def test_bad_arguments(unchecked_types, call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_observations_of_another_size_are_refused(sets):
    with pytest.raises(ValueError, match=r"data must have observations of size 4 \(maze/four\), got 2"):
        relabelled(sets["play"], Maze(inertia=0.5))


def test_a_name_means_a_set_of_the_maze_at_hand(sets):
    """By the same settings: of a maze that pays for success, so do its data."""
    env = Maze(reward="success", time_limit=60)
    found = load_set("maze/play", env, size=300, temperature=1.0).transitions()
    expected = relabelled(maze_data("play", env, steps=300), env)
    np.testing.assert_array_equal(found.obs, expected.obs)
    np.testing.assert_array_equal(found.reward, found.terminated.astype(float))
    np.testing.assert_array_equal(found.truncated, expected.truncated)
    with pytest.raises(
        ValueError, match="data must be of the environment: multigoal/multigoal is no maze, got 'maze/play'"
    ):
        load_set("maze/play", MultiGoal(), size=300, temperature=1.0)
