"""The maze: its physics by hand and against small steps, its walls, its routes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.algorithms import bc
from dpolicy.envs import ActionChunk, ActionRepeat, FrameStack, Maze, check, evaluate_episodes, make, mazes
from dpolicy.envs.maze import MARGIN, slide
from dpolicy.train.evaluate import evaluation, policy_of
from dpolicy.train.program import TrainState

# Middles of the cells of the second row from the south: (1, 1) is (-1.5, 0) from the middle of 5 x 3.
CORRIDOR = "#####\n#S.G#\n#####"
ROOM = "######\n#S..G#\n#.#..#\n#....#\n######"


def walked(env, position, *actions):
    """The observations, rewards and ends of a walk from a position."""
    state, seen = env.reset_at(jnp.array(position))[0], []
    for action in actions:
        state, obs, reward, terminated = env.step(state, jnp.array(action), jax.random.key(0))
        seen.append((np.asarray(obs), float(reward), bool(terminated)))
    return seen


def test_a_walk_to_the_goal_by_hand():
    env = Maze(CORRIDOR, speed=0.5, goal_radius=0.6)
    assert env.spec.name == "maze/own" and env.spec.success
    np.testing.assert_allclose([env.start, env.goal], [[-1, 0], [1, 0]])
    first, second, third = walked(env, (-1.0, 0.25), (1.0, -0.5), (3.0, 0.0), (0.25, 0.0))
    np.testing.assert_allclose(first[0], [-0.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(second[0], [0.0, 0.0], atol=1e-6)  # an action of 3 is one of 1
    assert first[1:] == second[1:] == third[1:] == (-1.0, False)
    assert walked(env, (0.0, 0.0), (1.0, 0.0))[0][1:] == (0.0, True)
    assert walked(Maze(CORRIDOR, reward="success"), (0.25, 0.0), (1.0, 0.0))[0][1:] == (1.0, True)
    assert walked(Maze(CORRIDOR, reward="success"), (-1.0, 0.0), (1.0, 0.0))[0][1:] == (0.0, False)


def test_inertia_by_hand():
    env = Maze(CORRIDOR, inertia=0.75, speed=0.8)
    first, second = walked(env, (-1.0, 0.0), (1.0, 0.5), (0.0, 1.0))
    velocity = 0.25 * 0.8 * np.array([1.0, 0.5])
    np.testing.assert_allclose(first[0], [*(np.array([-1.0, 0.0]) + velocity), *velocity], rtol=1e-5)
    after = 0.75 * velocity + 0.25 * 0.8 * np.array([0.0, 1.0])
    np.testing.assert_allclose(second[0][2:], after, rtol=1e-5)
    # Against the wall in the west: that coordinate stops there, and its velocity is zero.
    against = walked(env, (-1.45, 0.0), (-1.0, 0.5))[0][0]
    np.testing.assert_allclose(against, [-1.5 + MARGIN, 0.1, 0.0, 0.1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("place", "move", "target", "hit"),
    [
        ((2.5, 3.5), (0.7, 0.0), (3.2, 3.5), (False, False)),  # through a face between free cells
        ((2.5, 3.5), (0.4, -0.7), (2.9, 3.0 + MARGIN), (False, True)),  # onto the wall (2, 2), on along it
        ((1.8, 2.5), (0.6, 0.2), (2.0 - MARGIN, 2.7), (True, False)),  # into its side
        ((1.5, 2.75), (0.75, 0.5), (2.25, 3.25), (False, False)),  # over its corner: north first, then east
        (
            (1.75, 2.5),
            (0.5, 0.75),
            (2.0 - MARGIN, 3.25),
            (True, False),
        ),  # under its corner: east first, a wall
        ((1.5, 1.5), (-0.8, -0.9), (1.0 + MARGIN, 1.0 + MARGIN), (True, True)),  # into a corner of the maze
        ((3.0, 2.0), (-0.5, -0.5), (3.0 + MARGIN, 1.5), (True, False)),  # from a wall's very corner: x first
    ],
)
def test_moves_among_walls_by_hand(place, move, target, hit):
    free = jnp.asarray(mazes.open_cells(mazes.rows_of(ROOM)))
    found, stopped = slide(free, jnp.array(place), jnp.array(move))
    np.testing.assert_allclose(found, target, atol=1e-6)
    np.testing.assert_array_equal(stopped, hit)


def test_no_wall_is_passed_and_small_steps_lead_to_the_same_place(x64):
    """2,000 moves at random in "large": each ends in a free cell, and where 4,000 parts of it lead to."""
    rows = mazes.rows_of("large")
    free, cells = mazes.open_cells(rows), mazes.free_cells(rows)
    rng = np.random.default_rng(0)
    place = cells[rng.integers(len(cells), size=2000)] + rng.uniform(0.01, 0.99, (2000, 2))
    move = rng.uniform(-0.9, 0.9, (2000, 2))
    target, hit = jax.jit(jax.vmap(slide, (None, 0, 0)))(jnp.asarray(free), place, move)
    at = np.floor(target).astype(int)
    assert free[at[:, 0], at[:, 1]].all()
    assert 200 < np.asarray(hit).any(axis=1).sum() < 1800
    slow, parts, gone = place.copy(), 4000, np.ones_like(place)
    for _ in range(parts):
        for axis in (0, 1):
            tried = slow.copy()
            tried[:, axis] += gone[:, axis] * move[:, axis] / parts
            cell = np.floor(tried).astype(int)
            gone[:, axis] *= free[
                cell[:, 0], cell[:, 1]
            ]  # a wall stops a coordinate for the rest of the step
            slow = np.where(free[cell[:, 0], cell[:, 1]][:, None], tried, slow)
    # One that meets a corner within a part may go either way; 0.9 / 4,000 and the margin are the others' difference.
    assert (np.abs(slow - target).max(axis=1) < 2 * MARGIN).mean() > 0.998


def test_a_mass_stays_within_walls_for_long(getkey):
    env = make("maze/four", inertia=0.5, speed=0.9, starts="anywhere")

    def one(state, key):
        action_key, step_key = jax.random.split(key)
        state, obs, *_ = env.step(state, 5 * jax.random.normal(action_key, (2,)), step_key)
        return state, obs

    run = lambda key: jax.lax.scan(one, env.reset(key)[0], jax.random.split(key, 300))[1]
    cells = env.cell(jax.jit(jax.vmap(run))(jax.random.split(getkey(), 64))[..., :2])
    free = np.asarray(env.free)[cells[..., 0], cells[..., 1]]
    assert free.shape == (64, 300) and free.all()
    assert len(np.unique(np.reshape(cells, (-1, 2)), axis=0)) == 80


@pytest.mark.parametrize("name", list(mazes.LAYOUTS))
def test_the_four_routes_are_equally_long(name):
    env = make(f"maze/{name}")
    moves = mazes.distances(env.rows)
    start, goal = (mazes.cell_index(env.rows, mazes.marked(env.rows, mark)) for mark in "SG")
    gates = [mazes.cell_index(env.rows, gate) for gate in mazes.gates(env.rows)]
    assert [moves[start, gate] + moves[gate, goal] for gate in gates] == [moves[start, goal]] * 4
    # They are apart: without the other gates each is still a way, and without all four there is none.
    for kept in "abcd":
        closed = "\n".join("".join("#" if m in set("abcd") - {kept} else m for m in row) for row in env.rows)
        assert len(mazes.gates(mazes.rows_of(closed))) == 1
    with pytest.raises(ValueError, match="layout must have a way from the start S to the goal G"):
        mazes.rows_of("\n".join("".join("#" if m in "abcd" else m for m in row) for row in env.rows))


def test_routes_are_told_by_the_first_gate():
    env = Maze()
    path = jnp.stack([env.start, env.gates[2] + 0.4, env.gates[1], env.goal])
    assert [int(env.route(path)), int(env.route(path[::-1])), int(env.route(path[:1]))] == [2, 1, -1]


def test_starts(getkey):
    starts = lambda env: jax.vmap(lambda key: env.reset(key)[1])(jax.random.split(getkey(), 2000))
    near = starts(Maze(start_range=0.4)) - Maze().start[None]
    assert 0.38 < float(jnp.abs(near).max()) <= 0.4
    anywhere = Maze(starts="anywhere").cell(starts(Maze(starts="anywhere")))
    counts = np.unique(anywhere, axis=0, return_counts=True)[1]
    assert len(counts) == 80 and counts.min() > 5 and counts.max() < 60


def test_settings_can_be_mapped_over():
    east = lambda obs, key: jnp.array([1.0, 0.0])
    lengths = jax.jit(
        jax.vmap(lambda u: evaluate_episodes(Maze(CORRIDOR, speed=u), east, jax.random.key(1), 1, 50)[1])
    )(jnp.array([0.1, 0.5]))
    assert lengths[0, 0] >= 4 * lengths[1, 0]


def test_what_every_environment_promises():
    found = check(make("maze/four", inertia=0.5, time_limit=20), steps=24)
    assert found.violation is None


def test_success_is_told_where_terminating_is_success():
    """Through wrappers, too; and of an environment that says nothing of it, nothing."""
    env = make("maze/four", action_chunk=2, frame_stack=2, time_limit=3)
    assert env.spec.success and make("maze/four", action_repeat=5).spec.success
    for wrapped in (ActionChunk(Maze(), 2), ActionRepeat(Maze(), 2), FrameStack(Maze(), 2)):
        assert wrapped.spec.success
    algorithm = bc(hidden=(4,), sampler_steps=1)

    def shown(env):
        none, key = jnp.zeros((), jnp.int32), jax.random.key(0)
        state = TrainState(algorithm.init(key, env.spec), None, None, key, none, none == 0, none)
        assert policy_of(algorithm, state) is not None
        return jax.jit(lambda state: evaluation(algorithm, env, 8)(state, {})[1])(state)

    # The goal is all around the start in the one, and out of reach in the other.
    rates = [
        shown(Maze(CORRIDOR, goal_radius=radius, time_limit=2))["evaluate/success"] for radius in (3.0, 0.1)
    ]
    assert rates == [1.0, 0.0]
    assert "evaluate/success" not in shown(make("multigoal", time_limit=2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layout": "five"}, "layout must be one of four, large, or a text of rows, got 'five'"),
        ({"layout": "###\n#SG#\n####"}, r"layout must have rows of one length, got lengths \[3, 4, 4\]"),
        ({"layout": "####\n#SX#\n####"}, "layout must be made of # . S G and gates abcdefgh, got 'X'"),
        ({"layout": "####\n#SG.\n####"}, "layout must have walls"),
        ({"layout": "####\n#S.#\n####"}, "layout must have one goal G, got 0"),
        ({"layout": "######\n#SaaG#\n######"}, "layout must have no gate twice, got 2 of 'a'"),
        ({"layout": "#####\n#S#G#\n#####"}, "layout must have a way from the start S to the goal G"),
        (
            {"layout": "######\n#SG#.#\n######"},
            "layout must have a way from the start S to every free cell: 1 ",
        ),
        ({"layout": 4}, "layout must be one of four, large, or a text of rows, got 4"),
        ({"speed": 0.0}, "speed must be"),
        ({"speed": 1.0}, "speed must be"),
        ({"inertia": 1.0}, "inertia must be"),
        ({"start_range": 0.5}, "start_range must be"),
        ({"reward": "dense"}, "reward must be one of cost, success; got 'dense'"),
        ({"starts": "goal"}, "starts must be one of start, anywhere; got 'goal'"),
        ({"time_limit": 0}, "time_limit must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments(unchecked_types, options, message):
    with pytest.raises(ValueError, match=message):
        Maze(**options)
