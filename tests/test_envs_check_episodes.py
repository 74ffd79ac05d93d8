"""The checks of whole episodes: each finds the batch that is broken in its way."""

import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from walks import CHECKS, EPISODES, LIMIT, Walk

from dpolicy.envs import Vector, check
from dpolicy.envs._check_episodes import Violation, episode_checks, record


@pytest.fixture
def recorded():
    """Sound episodes."""
    return record(Vector(Walk(), 4, resets="pool", pool_size=3), jax.random.key(0), 40)


class Batch(Vector):
    """A batch like the library's own; tests break one promise of it each."""

    def altered(self, before, state, step):
        return state, step

    def step(self, state, actions, key):
        new, step = super().step(state, actions, key)
        return self.altered(state, new, step)


def put(tree, **changes):
    return eqx.tree_at(lambda t: [getattr(t, name) for name in changes], tree, list(changes.values()))


class BothFlags(Batch):
    def altered(self, before, state, step):
        at_limit = before.steps + 1 >= LIMIT
        return state, put(step, terminated=step.terminated | at_limit, truncated=step.truncated | at_limit)


class CutEarly(Batch):
    def altered(self, before, state, step):
        return state, put(step, truncated=(before.steps + 1 >= LIMIT - 1) & ~step.terminated)


class NeverCut(Batch):
    def altered(self, before, state, step):
        state = put(state, steps=jnp.where(step.done, 0, before.steps + 1))
        return state, put(step, truncated=jnp.zeros(self.num, bool))


class ClockGoesOn(Batch):
    def altered(self, before, state, step):
        return put(state, lengths=before.lengths + 1), put(step, episode_length=before.lengths + 1)


class ReturnGoesOn(Batch):
    def altered(self, before, state, step):
        return put(state, returns=before.returns + step.reward), step


class GoesOnFromTheEnd(Batch):
    def altered(self, before, state, step):
        return put(state, obs=step.next_obs), step


class JumpsOnTheWay(Batch):
    def altered(self, before, state, step):
        return put(state, obs=jnp.where(step.done[:, None], state.obs, state.obs + 1.0)), step


class ShowsTheNextStart(Batch):
    def altered(self, before, state, step):
        return state, put(step, next_obs=state.obs)


@pytest.mark.parametrize(
    ("batch", "name", "sentence"),
    [
        (BothFlags, "flags", "terminated and truncated must never be set together"),
        (
            CutEarly,
            "time limit",
            f"must be truncated at its time limit of {LIMIT} steps exactly, but one was after 5.",
        ),
        (NeverCut, "time limit", f"an episode must end at its time limit of {LIMIT} steps, but one goes on."),
        (ClockGoesOn, "clocks", "episode_length must count the steps since the last start"),
        (ReturnGoesOn, "clocks", "episode_return must be the sum of the rewards since the last start"),
        (GoesOnFromTheEnd, "starts", "the observation after an end must be the first of a fresh start"),
        (JumpsOnTheWay, "starts", "a step must start from where the last one led"),
        (ShowsTheNextStart, "terminal observations", "next_obs must be from before the reset."),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_batch_is_named(batch, name, sentence):
    recorded = record(batch(Walk(), 4, resets="pool", pool_size=3), jax.random.key(0), 40)
    checks, before = episode_checks(Walk(), recorded), EPISODES[: EPISODES.index(name)]
    assert [next(checks)[0] for _ in before] == before
    with pytest.raises(Violation, match=re.escape(sentence)):
        next(checks)


def test_another_batching_is_checked_on_request():
    found = check(Walk(), steps=20, vectorise=lambda env, num: BothFlags(env, num))
    assert "terminated and truncated must never be set together" in (found.violation or "")
    assert [name for name, _ in found.passed] == CHECKS[: CHECKS.index("flags")]


def test_a_limit_of_the_environments_own_is_remarked_on(recorded):
    """Whether a task is over at its limit only its author knows: it is no violation, but it is said."""
    step = recorded.step
    assert "episodes were cut after exactly 6 steps" in dict(episode_checks(Walk(), recorded))["time limit"]
    at_limit = step.episode_length == LIMIT
    told = put(step, terminated=step.terminated | at_limit, truncated=np.zeros_like(at_limit))
    assert "TERMINATES there" in dict(episode_checks(Walk(), recorded._replace(step=told)))["time limit"]
