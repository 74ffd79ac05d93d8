"""The Multi-Goal report on policies whose behaviour is known."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.envs import MultiGoal, make
from dpolicy.presets import preset, presets_for
from dpolicy.reports import figures, multigoal_report
from dpolicy.reports.figures import first_actions, trajectories
from dpolicy.reports.multigoal import as_json, blocks, measure, rollouts, table

ENV = MultiGoal()


def to_the_east(obs, key):
    """Full speed to the right."""
    return jnp.array([1.0, 0.0])


def either_side(obs, key):
    """East or west by a coin, the same way as the sign of x once it has one."""
    coin = jax.random.rademacher(key, (), float)
    return jnp.array([1.0, 0.0]) * jnp.where(jnp.abs(obs[0]) > 0.1, jnp.sign(obs[0]), coin)


def test_rollouts_follow_the_environment(getkey):
    found = jax.jit(lambda key: rollouts(ENV, to_the_east, jnp.zeros(2), key, 4))(getkey())
    np.testing.assert_array_equal(found.goals, [1.0, 0.0, 0.0, 0.0])
    np.testing.assert_array_equal(found.actions, np.tile([1.0, 0.0], (4, 1)))
    # The return by hand: the environment's own steps until it terminates.
    state, obs = ENV.reset_at(jnp.zeros(2))
    total, terminated, path = 0.0, False, [np.zeros(2)]
    while not terminated:
        state, obs, reward, terminated = ENV.step(state, to_the_east(obs, None), getkey())
        total += float(reward)
        path.append(np.asarray(obs))
    np.testing.assert_allclose(found.returns, total, rtol=1e-5)
    np.testing.assert_allclose(found.paths[0, : len(path)], path, atol=1e-6)
    np.testing.assert_array_equal(found.paths[0, len(path) :], np.tile(path[-1], (31 - len(path), 1)))


@pytest.fixture(scope="module")
def measured():
    """Two seeds of each policy; their states are not looked at."""
    states = jnp.zeros(2)
    policies = {"east": to_the_east, "either": either_side}
    return [
        measure(label, ENV, states, lambda state, p=p: p, episodes=200, steps=steps)
        for (label, p), steps in zip(policies.items(), (45_056, None), strict=True)
    ]


def test_measurements_of_known_policies(measured):
    east, either = measured
    assert east.returns.shape == (2, 3)
    assert [[m.count for m in of_seed] for of_seed in east.modes] == [[1, 1, 1]] * 2
    # The coin decides at x = 0 only.
    assert [[m.count for m in of_seed] for of_seed in either.modes] == [[2, 1, 1]] * 2
    np.testing.assert_allclose(either.goals[:, 0, :2], 0.5, atol=0.15)
    np.testing.assert_array_equal(either.goals[:, 0, 2:], 0.0)
    np.testing.assert_allclose(either.returns[:, 0], east.returns[:, 0], rtol=1e-5)
    # From starts that are uniform over the arena both mostly miss: worse than from the middle, and no two seeds alike.
    assert (east.everywhere < east.returns[:, 0] - 50).all()
    assert east.everywhere[0] != east.everywhere[1]


def test_without_a_start_the_environment_decides(getkey):
    env = MultiGoal(start=(3.0, 0.0), start_range=0.5)
    found = jax.jit(lambda key: rollouts(env, to_the_east, None, key, 50))(getkey())
    starts = np.asarray(found.paths[:, 0])
    assert (np.abs(starts - np.array([3.0, 0.0])) <= 0.5).all()
    assert np.ptp(starts, axis=0).min() > 0.5
    np.testing.assert_array_equal(found.goals, [1.0, 0.0, 0.0, 0.0])


def test_a_seed_that_failed_is_left_out():
    rows = measure(
        "east", ENV, jnp.zeros(2), lambda _: to_the_east, episodes=50, alive=np.array([0, 1], bool)
    )
    assert rows.returns.shape == (1, 3)


def test_tables_and_pictures(measured, tmp_path, monkeypatch):
    reward, goals, modes = blocks(measured, ENV)
    assert reward.header == ["policy", "steps a seed", "(0, 0)", "(2.5, 2.5)", "(-2.5, 2.5)", "all starts"]
    assert [row[1] for row in reward.rows] == ["45,056", "-"]
    assert modes.rows[1] == ["either", "2, 2", "1, 1", "1, 1"]
    assert goals.rows[0] == ["east", "100/0/0/0", "100/0/0/0"]
    text = table(measured, ENV)
    assert text.count("| policy |") == 3
    assert "| east | 100/0/0/0 | 100/0/0/0 |" in text
    numbers = as_json(measured)
    assert numbers[1]["modes"] == [[2, 1, 1], [2, 1, 1]]
    assert np.shape(numbers[0]["returns"]) == (2, 3)
    assert numbers[0]["steps"] == 45_056
    np.testing.assert_array_equal(numbers[1]["all_starts"], measured[1].everywhere)
    titles, panels, save = [], [], figures._save

    def recorded(figure, path):
        titles.append(figure.get_suptitle())
        panels.append([axes.get_title() for axes in figure.axes])
        return save(figure, path)

    monkeypatch.setattr(figures, "_save", recorded)
    for draw in (trajectories, first_actions):
        path = draw(measured, ENV, tmp_path / f"{draw.__name__}.png")
        assert path.stat().st_size > 10_000
    assert titles[0].startswith(
        "Multi-Goal: 40 episodes from (0, 0) of each of 2 seeds, a colour for each seed"
    )
    assert panels[0] == ["east\n45,056 steps a seed", "either"]
    assert titles[1].startswith("Multi-Goal: first action from the saddle points, seed 0, 200 samples each")


def test_a_wrapped_plane_is_measured_by_the_executed_actions_and_the_newest_frames(getkey):
    env = make("multigoal", action_repeat=2, frame_stack=2, action_chunk=2, time_limit=5)
    # Chunks of two actions, east and then north.
    chunk = lambda obs, key: jnp.array([1.0, 0.0, 0.0, 0.25])
    found = jax.jit(lambda key: rollouts(env, chunk, jnp.array([-6.0, 0.0]), key, 2))(getkey())
    np.testing.assert_array_equal(found.actions, [[1.0, 0.0]] * 2)
    # Four moves a step until the goal in the west, at (-5, 0), which the first of them reaches.
    np.testing.assert_array_equal(found.paths[0, :2], [[-6.0, 0.0], [-5.0, 0.0]])
    np.testing.assert_array_equal(found.goals, [0.0, 1.0, 0.0, 0.0])
    start = jax.jit(lambda key: rollouts(env, chunk, jnp.zeros(2), key, 2))(getkey())
    np.testing.assert_array_equal(start.paths[0, :3], [[0.0, 0.0], [2.0, 0.5], [4.0, 1.0]])
    assert start.paths.shape == (2, env.spec.time_limit + 1, 2)
    with pytest.raises(ValueError, match="env must be Multi-Goal, wrapped or not, got probe/action"):
        rollouts(make("probe/action"), chunk, jnp.zeros(2), getkey(), 2)


def test_many_policies_stand_in_rows_of_four(measured, tmp_path, monkeypatch):
    shapes = []
    monkeypatch.setattr(
        figures, "_save", lambda figure, path: shapes.append(figure.axes[0].get_gridspec()) or path
    )
    figures.trajectories(measured * 3, ENV, tmp_path / "six.png")
    assert (shapes[0].nrows, shapes[0].ncols) == (2, 4)


def test_references_have_presets_and_ways():
    for name, algorithm, chosen in multigoal_report.REFERENCES:
        assert chosen in presets_for(algorithm, "multigoal/multigoal")
        assert name in multigoal_report.WAYS
    raw, standardised = (preset("ppo", "multigoal/multigoal", name) for name in ("tuned", "standardised"))
    differ = {name for name in standardised if standardised[name] != raw.get(name)}
    assert differ == {"normalise_observations", "initialisation", "entropy_coefficient"}


def test_a_run_is_measured_with_the_steps_that_it_has_taken(measured, monkeypatch):
    seen, result = [], measured[0]
    monkeypatch.setattr(
        multigoal_report, "measure", lambda *args, **named: seen.append((args, named)) or result
    )
    # Asked for 45,000 steps, a run ends with its chunk; one of two seeds has failed.
    state = SimpleNamespace(steps=np.array([45_056, 45_056]), alive=np.array([True, False]))
    run = SimpleNamespace(state=state, program=SimpleNamespace(algorithm="sdac"), config={"steps": 45_000})
    multigoal_report._measure("sdac", run, ENV)
    (label, env, of, policy), named = seen[0]
    assert (label, env, of) == ("SDAC, sampled", ENV, state)
    assert policy.keywords == {"mode": "explore"} and policy.args == ("sdac",)
    assert named["steps"] == 45_056
    np.testing.assert_array_equal(named["alive"], [True, False])
