"""Multi-Goal against dynamic programming, and its geometry."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy.envs import MultiGoal, evaluate_episodes


def best_return(env, spacing):
    """The optimal return from the origin of a walk along an axis, on a lattice of positions and actions."""
    positions = jnp.round(jnp.arange(-7 / spacing, 7 / spacing + 0.5)) * spacing
    actions = jnp.round(jnp.arange(-1 / spacing, 1 / spacing + 0.5)) * spacing

    def one(position, action):
        state, _, reward, terminated = env.step(
            jnp.stack([position, 0 * position]), jnp.stack([action, 0 * action]), jax.random.key(0)
        )
        return jnp.rint((state[0] + 7) / spacing).astype(int), reward, terminated

    index, reward, terminated = jax.jit(jax.vmap(jax.vmap(one, (None, 0)), (0, None)))(positions, actions)

    def backup(value, _):
        return jnp.max(reward + jnp.where(terminated, 0.0, value[index]), axis=1), None

    value, _ = jax.lax.scan(backup, jnp.zeros(len(positions)), None, length=env.spec.time_limit)
    return float(value[len(positions) // 2])


@pytest.mark.parametrize(
    ("coefficients", "optimum", "digits", "staying"),
    [((30, 1, 10), -110.0, 1, -750), ((1, 0.1, 1), -5.68, 2, -75), ((1, 1, 10), -24.5, 1, -750)],
)
def test_returns_from_the_origin(x64, coefficients, optimum, digits, staying):
    action_cost, distance_cost, bonus = coefficients
    env = MultiGoal(action_cost=action_cost, distance_cost=distance_cost, bonus=bonus)
    # The goal disc is open, so the optimum is a limit that a lattice approaches linearly: extrapolate.
    limit = 2 * best_return(env, 0.02) - best_return(env, 0.04)
    assert round(limit, digits) == optimum
    still = lambda obs, key: jnp.zeros(2)
    returns, lengths = evaluate_episodes(env.starting_at((0.0, 0.0)), still, jax.random.key(0), 2, 30)
    np.testing.assert_allclose(returns, staying)
    np.testing.assert_array_equal(lengths, 30)


def test_a_walk_to_the_goal_by_hand():
    env = MultiGoal(action_cost=2.0, distance_cost=0.5, bonus=7.0).starting_at((3.0, 0.0))
    east = lambda obs, key: jnp.array([1.0, 0.0])
    returns, lengths = evaluate_episodes(env, east, jax.random.key(0), 1, 30)
    # Distance 1 is not within the goal, distance 0 is.
    np.testing.assert_allclose(returns, [(-2.0 - 0.5) + (-2.0 - 0.0 + 7.0)])
    np.testing.assert_array_equal(lengths, [2])


def test_saddle_points_are_equidistant():
    env = MultiGoal()
    distances = np.sort(jax.vmap(env.goal_distances)(env.saddle_points), axis=1)
    np.testing.assert_allclose(distances[0], 5.0, rtol=1e-6)
    np.testing.assert_allclose(distances[1:, :2], np.sqrt(12.5), rtol=1e-6)
    assert (distances[1:, 2] > 5).all()


def test_actions_and_positions_are_clipped(getkey):
    env = MultiGoal()
    loud = env.step(jnp.array([6.5, -6.5]), jnp.array([9.0, -9.0]), getkey())
    full = env.step(jnp.array([6.5, -6.5]), jnp.array([1.0, -1.0]), getkey())
    np.testing.assert_array_equal(loud[0], [7.0, -7.0])
    np.testing.assert_array_equal(loud[2], full[2])
    np.testing.assert_allclose(full[2], -2.0 - (4.0 + 49.0), rtol=1e-6)


def test_linear_distance(getkey):
    env = MultiGoal(distance="linear", distance_cost=2.0, action_cost=0.0)
    _, _, reward, terminated = env.step(jnp.array([0.0, 2.0]), jnp.zeros(2), getkey())
    np.testing.assert_allclose(reward, -6.0)
    assert not terminated


def test_start_distributions(getkey):
    starts = lambda env: jax.vmap(env.reset)(jax.random.split(getkey(), 4000))[1]
    normal = starts(MultiGoal(start=(1.0, -1.0), start_std=0.1))
    np.testing.assert_allclose(normal.mean(0), [1, -1], atol=0.01)
    np.testing.assert_allclose(normal.std(0), 0.1, rtol=0.06)
    uniform = starts(MultiGoal())
    assert float(jnp.abs(uniform).max()) <= 6.0
    np.testing.assert_allclose(uniform.std(0), 6 / np.sqrt(3), rtol=0.06)
    exact = starts(MultiGoal(start_range=6.0).starting_at((2.5, 2.5)))
    np.testing.assert_array_equal(exact, np.full((4000, 2), 2.5))
    assert float(jnp.abs(starts(MultiGoal(start_std=50.0))).max()) <= 7.0


def test_coefficients_can_be_mapped_over(getkey):
    costs = jnp.array([0.0, 1.0, 30.0])
    go = lambda obs, key: jnp.array([1.0, 1.0])
    run = lambda cost: evaluate_episodes(MultiGoal(action_cost=cost), go, jax.random.key(1), 2, 4)[0]
    returns = jax.jit(jax.vmap(run))(costs)
    np.testing.assert_allclose(returns[0] - returns[1], 8.0, rtol=1e-5)
    np.testing.assert_allclose(returns[0] - returns[2], 240.0, rtol=1e-5)
    stacked = jax.vmap(lambda std: MultiGoal(start_std=std))(jnp.array([0.0, 1.0]))
    starts = jax.vmap(lambda env: env.reset(jax.random.key(0))[1])(stacked)
    np.testing.assert_array_equal(starts[0], 0.0)
    assert (starts[1] != 0).all()


def test_contours_are_the_reward_at_rest():
    env = MultiGoal()
    axis, values = env.contours(15)
    np.testing.assert_allclose(axis, np.arange(-7, 8), atol=1e-5)
    assert float(values[7, 12]) == 10.0  # the goal (5, 0)
    np.testing.assert_allclose(values[8, 9], -(9.0 + 1.0), rtol=1e-5)  # (2, 1)
    assert int(env.nearest_goal(jnp.array([-1.0, -3.0]))) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action_cost": -1.0}, "action_cost must be a finite number"),
        ({"distance": "cubic"}, "distance must be one of squared, linear; got 'cubic'"),
        ({"goal_distance": 8.0}, "goal_distance must be"),
        (
            {"start_std": 0.1, "start_range": 1.0},
            "start_range must be None where start_std is given, got 1.0",
        ),
        ({"horizon": 0}, "horizon must be an integer of at least 1, got 0"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        MultiGoal(**options)
