"""Sets recorded from agents: trained where they are not yet, one set for a name and a seed, and what replays hold."""

import json
import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_commands import mistake, run

from dpolicy._types import Transition
from dpolicy.data import AGENTS, MIXTURES, Agent, check_order, located, normalised_score, read
from dpolicy.mixtures import _making, make_mixture
from dpolicy.mixtures._making import in_time
from dpolicy.train.replay import Replay

SMALL = {
    **dict.fromkeys(("hidden", "critic_hidden"), (8,)),
    **dict.fromkeys(("learning_rate", "critic_learning_rate"), 0.03),
    **{"num_envs": 4, "batch_size": 16, "replay_size": 400, "warmup": 40, "updates_per_step": 2},
    **{"evaluation_interval": 80, "evaluation_episodes": 2},
}
# In a bandit whose rewards rise with the action even this one is better than chance.
TINY = Agent("bandit/linear", 120, 280, 30, SMALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """All sets of a tiny agent, made by one command in an empty folder."""
    from dpolicy.cli import main

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(AGENTS, "pendulum", TINY)
        patch.setattr(_making, "_EPISODES", 20)
        patch.chdir(folder := tmp_path_factory.mktemp("made"))
        patch.setenv("COLUMNS", "120")
        assert main(["data", "make", "pendulum", "--no-progress"]) == 0
        yield folder


def test_all_sets_of_an_agent(made):
    sizes = {name: len(read(f"pendulum/{name}")) for name in ("random", "medium", "expert", "medium-expert")}
    assert set(sizes.values()) == {30}
    assert (len(read("pendulum/medium-replay")), len(read("pendulum/full-replay"))) == (120, 280)
    low, high = json.loads((made / "data/agents/pendulum-0/reference.json").read_text())
    assert low < high and all(
        read(name).reference == (low, high) for name, m in MIXTURES.items() if m.agent == "pendulum"
    )
    both = read("pendulum/medium-expert")
    for part, name in ((slice(0, 15), "medium"), (slice(15, 30), "expert")):
        np.testing.assert_array_equal(both.action[part], read(f"pendulum/{name}").action[:15])
    # The agent went on from where it was stopped, so the one replay begins as the other, environment by environment.
    early, late = (read(f"pendulum/{kind}-replay").action.reshape(4, -1) for kind in ("medium", "full"))
    np.testing.assert_array_equal(early, late[:, :30])
    score = lambda kind: normalised_score(read(f"pendulum/{kind}").reward.mean(), (low, high))
    assert score("random") < score("expert")


def test_the_same_seed_makes_the_same_set(made, capsys):
    words = ("data", "make", "pendulum/medium", "--no-progress")
    before = (made / "data/pendulum/medium.npz").read_bytes()
    assert mistake(capsys, *words).endswith("choose another name, or overwrite it (--overwrite).")
    code, out, _ = run(capsys, *words, "--overwrite")
    assert code == 0 and out.splitlines()[-1].startswith("data/pendulum/medium.npz: 30 transitions")
    assert (made / "data/pendulum/medium.npz").read_bytes() == before
    # More of the same, and of an agent that is there.
    more = make_mixture("pendulum/medium", 40)
    np.testing.assert_array_equal(more.action[:30], read("pendulum/medium").action)


def test_what_was_cut_short_goes_on(made, monkeypatch):
    """A copy that was not whole is made anew, and a missing reference is measured again."""
    agents = made / "data/agents/pendulum-0"
    stored = (agents / "reference.json").read_text()
    os.rename(agents / "expert", agents / ".expert.tmp")
    (agents / "reference.json").unlink()
    told = []
    found = make_mixture("pendulum/expert", 10, say=told.append)
    np.testing.assert_array_equal(found.action, read("pendulum/expert").action[:10])
    assert (agents / "reference.json").read_text() == stored and not (agents / ".expert.tmp").exists()
    assert told[-1] == "data/agents/pendulum-0/expert: SAC on bandit/linear, seed 0, to step 280"
    (agents / "reference.json").unlink()
    monkeypatch.setattr(_making, "episode_returns", lambda data: np.zeros(1))
    with pytest.raises(ValueError, match="seed 0 earns 0, no more than uniform actions .* another seed"):
        make_mixture("pendulum/random")
    (agents / "reference.json").write_text(stored)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("pendulum/expert", "--size", "0"), "size must be an integer of at least 1, got 0"),
        (("multigoal/full-replay", "--size", "9"), "size must be None for multigoal/full-replay, a replay"),
        (("multigoal", "--size", "9"), "size is for one set, and multigoal is 6 of them."),
        (("multigoal", "--out", "a.npz"), "out is for one set"),
        (("multigoal/mediun",), "name must be one of"),
        (("multigoal/random", "--seed", "-1"), "seed must be an integer"),
    ],
)
def test_mistakes(made, capsys, words, sentence):
    assert sentence in mistake(capsys, "data", "make", *words, "--overwrite")


def test_a_name_that_is_not_made_says_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="dpolicy data make multigoal/medium-replay.$"):
        located("multigoal/medium-replay")
    with pytest.raises(ValueError, match="dpolicy data make cep/moons.$"):
        located("cep/moons")


def test_a_replay_in_the_order_of_time():
    """Three steps of two environments, the second of which ended one episode; both are cut where the run stopped."""
    time, env = jnp.repeat(jnp.arange(3.0), 2), jnp.tile(jnp.arange(2.0), 3)
    obs = jnp.stack([time, env], 1)
    ended = jnp.array([0, 0, 0, 1, 0, 0], bool)
    after = obs.at[:, 0].add(1.0)
    rows = Transition(obs, 0.1 * obs, time, after, ended, jnp.zeros(6, bool))
    ring = lambda leaf: jnp.concatenate([leaf, jnp.zeros_like(leaf[:2])])[None]
    stored = jax.tree.map(ring, rows)
    full = lambda number: jnp.full(1, number)
    replay = Replay(stored, full(6), full(6), 8)
    data = in_time(replay, 2, 6)
    np.testing.assert_array_equal(data.obs, [[0, 0], [1, 0], [2, 0], [0, 1], [1, 1], [2, 1]])
    np.testing.assert_array_equal(data.terminated, [0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(data.truncated, [0, 0, 1, 0, 0, 1])
    check_order(data)
    with pytest.raises(ValueError, match="replay_size must be at least the 10 steps of the run, got 8"):
        in_time(Replay(stored, full(0), full(8), 8), 2, 10)
