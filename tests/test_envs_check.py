"""The checks: sound environments pass all of them, and each check finds the environment that is broken in its way."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from chains import adapted
from walks import (
    CHECKS,
    LIMIT,
    FiveValues,
    FloatFlag,
    GrowingState,
    IntegerObs,
    LongerObs,
    LongObs,
    ResetReturnsObs,
    VectorReward,
    Walk,
)

from dpolicy.envs import (
    ActionChunk,
    ActionRepeat,
    Environment,
    FrameStack,
    MultiGoal,
    TimeLimit,
    check,
)
from dpolicy.envs.protocol import Spec


@pytest.mark.parametrize(
    "env",
    [
        MultiGoal(horizon=5),
        adapted(3)["playground"],
        ActionChunk(ActionRepeat(FrameStack(TimeLimit(Walk(), 8), 2), 2), 2),
    ],
    ids=lambda env: env.spec.name,
)
def test_a_sound_environment_passes(env):
    found = check(env)
    assert found.violation is None
    assert [name for name, _ in found.passed] == CHECKS
    assert found.env == env.spec.name
    assert all(seen for _, seen in found.passed)


class ResetRaises(Walk):
    def reset(self, key):
        raise RuntimeError("no such file.\n\nmore")


class TiresOfIt(Walk):
    """Answers twice."""

    def reset(self, key):
        asked.append(1)
        if len(asked) > 2:
            raise RuntimeError("enough")
        return super().reset(key)


asked = []


class WrongActionSize(Walk):
    spec: Spec = Spec("test/walk", 2, 3, LIMIT)


class ChangingType(Walk):
    def step(self, state, action, key):
        state, obs, reward, terminated = super().step(state, action, key)
        return state.astype(jnp.float16), obs, reward, terminated


class PythonNoise(Walk):
    def reset(self, key):
        place = jnp.full(2, np.random.default_rng().uniform())
        return place, place


class LooksAtTheCompiler(Walk):
    def step(self, state, action, key):
        state, obs, reward, terminated = super().step(state, action, key)
        return state, obs, reward + isinstance(action, jax.core.Tracer), terminated


class OnlyOne(Walk):
    def step(self, state, action, key):
        state, obs, reward, terminated = super().step(state, action, key)
        same = lambda x: np.asarray(x)
        return state, obs, jax.pure_callback(same, reward, reward), terminated


class OtherTogether(Walk):
    def step(self, state, action, key):
        @jax.custom_batching.custom_vmap
        def paid(x):
            return x

        @paid.def_vmap
        def batched(size, mapped, x):
            return x + 1.0, True

        state, obs, reward, terminated = super().step(state, action, key)
        return state, obs, paid(reward), terminated


class HostNoise(Walk):
    """Its wind comes from the host, whatever the key; the noise is too small for a comparison with a tolerance."""

    def step(self, state, action, key):
        state, obs, reward, terminated = super().step(state, action, key)
        wind = lambda x: (x + 1e-5 * np.random.default_rng().normal(size=x.shape)).astype(x.dtype)
        noisy = jax.pure_callback(wind, reward, reward, vmap_method="expand_dims")
        return state, obs, noisy, terminated


class ChargesForTheRawAction(Walk):
    def step(self, state, action, key):
        state, obs, _, terminated = super().step(state, action, key)
        return state, obs, -jnp.sum(action**2), terminated


class MovesByTheRawAction(Walk):
    def step(self, state, action, key):
        moved = state + action
        return moved, jnp.zeros(2), jnp.zeros(()), jnp.asarray(False)


class ShowsTheRawAction(Walk):
    def step(self, state, action, key):
        state, _, reward, terminated = super().step(state, action, key)
        return state, jnp.append(action, 0.0), reward, terminated


class Diverges(Walk):
    def step(self, state, action, key):
        state, obs, reward, terminated = super().step(state, action, key)
        return state, obs, jnp.where(terminated, jnp.inf, reward), terminated


class Explodes(Walk):
    def step(self, state, action, key):
        state, obs, reward, terminated = super().step(state, action, key)
        return state, obs, jnp.where(terminated, jnp.inf, reward), jnp.asarray(False)


class ResetsItself(Walk):
    """As batched simulators do: the step that ends an episode already shows the next one."""

    def step(self, state, action, key):
        state, _, reward, terminated = super().step(state, action, key)
        fresh, _ = self.reset(key)
        state = jnp.where(terminated, fresh, state)
        return state, state, reward, terminated


class ResetsItselfToOneStart(ResetsItself):
    start: float = 0.0


@pytest.mark.parametrize(
    ("env", "name", "sentence"),
    [
        (
            object(),
            "specification",
            "object: env must be a dpolicy.envs.Environment with a Spec, got object.",
        ),
        (ResetRaises(), "reset", "test/walk: reset raises RuntimeError: no such file."),
        (TiresOfIt(), "state", "test/walk: after the check of step it raises RuntimeError: enough."),
        (ResetReturnsObs(), "reset", "reset must return (state, obs), got a tuple of 3."),
        (LongObs(), "reset", "the observation of reset must be float32[2], got float32[3]."),
        (IntegerObs(), "reset", "the observation of reset must be float32[2], got int32[2]."),
        (FiveValues(), "step", "got a tuple of 5; a time limit belongs into spec.time_limit."),
        (VectorReward(), "step", "the reward must be float32[], got float32[1]."),
        (
            FrameStack(FloatFlag(), 2),
            "step",
            "test/walk frame_stack=2: terminated must be bool[], got float32[].",
        ),
        (FloatFlag(), "step", "terminated must be bool[], got float32[]."),
        (LongerObs(), "step", "the observation of step must be float32[2], got float32[3]."),
        (WrongActionSize(), "step", "step raises "),
        (GrowingState(), "state", "state['time'] is missing after reset and int32[] after step."),
        (ChangingType(), "state", "state is float32[2] after reset and float16[2] after step."),
        (PythonNoise(), "purity", "reset must be a pure function of its arguments"),
        (LooksAtTheCompiler(), "jit", "without jit, reward of the same transition is "),
        (OnlyOne(), "vmap", "under vmap, reset or step raises "),
        (OtherTogether(), "vmap", "under vmap, reward of the same transition is "),
        (HostNoise(), "determinism", "called twice, its results differ[2]."),
        (ChargesForTheRawAction(), "actions", "must act as the clipped ones, but the reward"),
        (MovesByTheRawAction(), "actions", "must act as the clipped ones, but the state"),
        (ShowsTheRawAction(), "actions", "must act as the clipped ones, but the observation"),
        (
            Diverges(),
            "finite numbers",
            "a random policy comes to ends with an observation or a reward that is not",
        ),
        (Explodes(), "finite numbers", "a random policy finds a reward of inf."),
        (
            ResetsItself(),
            "terminal observations",
            "another episode, drawn by the key: leave resets to Vector.",
        ),
        (ResetsItselfToOneStart(), "terminal observations", "another episode, always the same: leave resets"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Environment) else None,
)
def test_what_is_broken_is_named_and_nothing_else(env, name, sentence):
    found = check(env, steps=40)
    assert sentence in (found.violation or "")
    assert [name for name, _ in found.passed] == CHECKS[: CHECKS.index(name)]


def test_arguments_are_checked(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what a user without the checker sees
    with pytest.raises(ValueError, match=r"vectorise must be a function \(env, num\) -> Vector, got 5"):
        check(Walk(), vectorise=5)
    with pytest.raises(ValueError, match="steps must be an integer of at least 1, got 0"):
        check(Walk(), steps=0)
