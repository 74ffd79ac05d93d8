"""The contract of a loaded set: what is kept apart, measured once and frozen, and its rewards and scores."""

import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from dpolicy.data import (
    REFERENCE_SCORES,
    REWARD_TREATMENTS,
    DataSet,
    as_data_set,
    check_order,
    episode_returns,
    normalised_score,
    reference_scores,
)
from dpolicy.train.windows import data_windows


@pytest.fixture
def unchecked(monkeypatch):
    """What a user without the checker of types sees."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def two_trajectories(**changed):
    """Returns 10 and 30; the first ends by a cut, the second terminates, and one of its rows is a constant."""
    obs = np.array([[0.0, 5.0], [1.0, 5.0], [7.0, 5.0], [8.0, 5.0], [9.0, 5.0]])
    parts = {
        "obs": obs,
        "action": np.array([[0.1], [-0.2], [0.3], [0.4], [0.9]]),
        "reward": np.array([4.0, 6.0, 10.0, 5.0, 15.0]),
        "next_obs": obs + np.array([1.0, 0.0]),
        "terminated": np.array([0, 0, 0, 0, 1]),
        "end": np.array([0, 1, 0, 0, 1]),
    }
    return DataSet(**parts | changed)


def test_termination_and_end_are_apart():
    data = two_trajectories()
    np.testing.assert_array_equal(data.trajectory, [0, 0, 1, 1, 1])
    np.testing.assert_array_equal(data.trajectory_returns(), [10, 30])
    rows = data.transitions(("next_action", "mc_return", "trajectory"), discount=0.5)
    np.testing.assert_array_equal(rows.terminated, [0, 0, 0, 0, 1])
    np.testing.assert_array_equal(rows.truncated, [0, 1, 0, 0, 0])
    np.testing.assert_allclose(rows.extras["next_action"][:, 0], [-0.2, -0.2, 0.4, 0.9, 0.9], rtol=1e-6)
    np.testing.assert_array_equal(rows.extras["next_action_known"], [1, 0, 1, 1, 0])
    np.testing.assert_allclose(rows.extras["mc_return"], [7, 6, 16.25, 12.5, 15])
    np.testing.assert_array_equal(rows.extras["trajectory"], data.trajectory)
    check_order(rows)
    np.testing.assert_array_equal(episode_returns(rows), [10, 30])
    valid = data_windows(rows, jnp.arange(5), 3)[1]
    np.testing.assert_array_equal(valid.sum(axis=1), [2, 1, 3, 2, 1])
    again = as_data_set(rows)
    np.testing.assert_array_equal(again.end, data.end)
    # A goal that is stayed at: the bootstrap is cut, the trajectory goes on.
    stays = two_trajectories(terminated=np.array([0, 0, 1, 0, 1]))
    np.testing.assert_array_equal(stays.trajectory_returns(), [10, 30])
    np.testing.assert_allclose(stays.mc_returns(0.5), [7, 6, 10, 12.5, 15])


def test_statistics_are_frozen():
    data = two_trajectories()
    found = data.statistics
    np.testing.assert_allclose(found.obs_mean, [5, 5])
    np.testing.assert_allclose(found.obs_std, [np.sqrt(14), 1], rtol=1e-6)
    assert (found.return_low, found.return_high, found.reward_scale, found.reward_shift) == (10, 30, 1, 0)
    np.testing.assert_allclose([found.action_low, found.action_high], [[-0.2], [0.9]], rtol=1e-6)
    for array in (data.obs, data.reward, data.end, found.obs_std, data.rewarded("white").reward):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    with pytest.raises(AttributeError, match="reward of a data set is not changed"):
        data.reward = np.zeros(5)


# By hand: the rewards are 4 6 10 5 15, of mean 8 and variance 16.4.
TREATED = {
    "none": [4, 6, 10, 5, 15],
    "iql_locomotion": [200, 300, 500, 250, 750],
    "iql_antmaze": [3, 5, 9, 4, 14],
    "cql_antmaze": [14, 22, 38, 18, 58],
    "antmaze100": [400, 600, 1000, 500, 1500],
    "white": np.array([-4, -2, 2, -3, 7]) / np.sqrt(16.4),
    "minmax": [-1, -7 / 11, 1 / 11, -9 / 11, 1],
}


@pytest.mark.parametrize("treatment", REWARD_TREATMENTS)
def test_reward_treatments(treatment):
    data = two_trajectories()
    shown = data.rewarded(treatment)
    np.testing.assert_allclose(shown.reward, TREATED[treatment], rtol=1e-6)
    np.testing.assert_array_equal(data.reward, TREATED["none"])
    scale, shift = shown.statistics.reward_scale, shown.statistics.reward_shift
    np.testing.assert_allclose(shown.reward, scale * data.reward + shift, rtol=1e-5)
    # The range of returns stays that of the rewards as they were read: scores are of these.
    assert (shown.statistics.return_low, shown.statistics.return_high) == (10, 30)
    if treatment != "none":
        with pytest.raises(ValueError, match="have been treated by"):
            shown.rewarded("white")


def test_a_spread_of_nothing_is_refused(unchecked):
    one = two_trajectories(end=np.zeros(5), terminated=np.zeros(5))
    with pytest.raises(
        ValueError, match="data_rewards must not be 'iql_locomotion' for data: the returns of the 1 "
    ):
        one.rewarded("iql_locomotion")
    flat = two_trajectories(reward=np.ones(5))
    for treatment in ("white", "minmax"):
        with pytest.raises(ValueError, match="the rewards are all the same"):
            flat.rewarded(treatment)
    with pytest.raises(ValueError, match="data_rewards must be one of none, iql_locomotion, "):
        flat.rewarded("x1000")


def test_actions_are_clipped_only_when_asked():
    data = two_trajectories(action=np.array([[0.1], [-1.2], [1.0], [0.4], [0.9]]))
    with pytest.raises(ValueError, match=r"must lie in \[-1, 1\]: .*data_action_clip\); the largest is 1.2"):
        data.transitions()
    clipped = data.clipped(0.95)
    np.testing.assert_allclose(clipped.action[:, 0], [0.1, -0.95, 0.95, 0.4, 0.9])
    np.testing.assert_allclose(clipped.statistics.action_low, [-0.95])
    assert clipped.remarks == ("2 of 5 numbers of the actions were clipped to [-0.95, 0.95].",)
    assert data.remarks == () and data.action.min() == np.float32(-1.2)
    clipped.transitions()
    with pytest.raises(ValueError, match="limit must be a finite number in"):
        data.clipped(1.5)


@pytest.mark.parametrize(
    ("name", "score_of", "expected"),
    [
        ("halfcheetah-medium-v2", 12135.0, 100),
        ("halfcheetah_medium_expert-v2", -280.178953, 0),
        ("hopper-expert-v0", 3234.3, 100),
        ("walker_mixed", 4592.3, 100),
        ("antmaze-large-play-v2", 0.7, 70),
        ("Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse", 0.7, 70),
        ("kitchen-mixed-v0", 2, 50),
        ("mini_kitchen_microwave_kettle_light_slider-v0", 2, 50),
        ("pen-human-v1", 96.262799, 0),
        ("pen-cloned-v1", 3076.8331017826877, 100),
        ("ant-random-v0", 3879.7, 100),
        ("maze2d-umaze-dense-v1", 68.537689, 0),
        ("maze2d-umaze-v1", 23.85, 0),
    ],
)
def test_normalised_scores(name, score_of, expected):
    reference = reference_scores(name)
    assert reference in REFERENCE_SCORES.values()
    np.testing.assert_allclose(normalised_score(score_of, reference), expected, atol=1e-9)
    fraction = normalised_score(np.array([score_of]), reference, percent=False)
    np.testing.assert_allclose(fraction, [expected / 100], atol=1e-9)


def test_what_has_no_score(unchecked):
    assert reference_scores("cube-single-play-v0") is None and reference_scores("penguin") is None
    for pair in ((1.0,), (2.0, 1.0), (np.nan, 1.0), "ab"):
        with pytest.raises(ValueError, match="reference must be"):
            normalised_score(0.0, pair)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"end": np.zeros(4)}, r"'end' in data must be as long as 'action', of shape \(5,\), got \(4,\)"),
        ({"obs": np.full((5, 2), np.nan)}, "'obs' in data must be finite"),
        ({"next_obs": None}, "must hold 'next_obs' where it holds 'reward'"),
        ({"action": np.zeros(5)}, "two-dimensional array 'action'"),
    ],
)
def test_what_is_no_set(unchecked, changed, message):
    with pytest.raises(ValueError, match=message):
        two_trajectories(**changed)
    with pytest.raises(ValueError, match="extras must be one of next_action, mc_return, trajectory"):
        two_trajectories().transitions(("nothing",))
