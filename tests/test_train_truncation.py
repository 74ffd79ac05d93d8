"""Time limits are no ends: learned values are the closed-form ones through every adapter and every wrapper.

The chain of `chains.py` is cut after two steps, so no learner sees a whole episode. The values of PPO are those of the
uncut chain only if each cut is bootstrapped from its true successor; one that takes the cut for the end learns about
the reward of the two steps instead. Both learn in one compiled program, which steps all environments at once.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from chains import LENGTH, Chain, adapted, seen, value

from dpolicy.algorithms import ppo
from dpolicy.envs import ActionChunk, ActionRepeat, Environment, FrameStack, TimeLimit
from dpolicy.envs.protocol import Spec
from dpolicy.train import on_policy

DISCOUNT = 0.9
LIMIT = 2
ENVS = {
    **adapted(LIMIT),
    "chunk": ActionChunk(Chain(2 * LIMIT), 2),
    "repeat": ActionRepeat(Chain(2 * LIMIT), 2),
    "stack": FrameStack(Chain(LIMIT), 2),
    "limit": TimeLimit(Chain(50), LIMIT),
}
TOGETHER = {"chunk": 2, "repeat": 2}  # steps of the chain in one of the wrapper's


class AnyChain(Environment):
    """The environment of a number, its observations and actions padded to one size.

    Args:
        number: Index into `ENVS`.
        confused: Whether the time limit is told as a termination.
    """

    spec: Spec
    number: Any
    confused: Any

    def __init__(self, number, confused):
        self.spec = Spec("test/any", 2 * LENGTH, 2, LIMIT)
        self.number = number
        self.confused = confused

    def _chosen(self, values):
        padded = [jnp.pad(v, (0, 2 * LENGTH - v.size)) if v.ndim else v for v in values]
        return jnp.stack(padded)[self.number]

    def reset(self, key):
        states, observations = zip(*[env.reset(key) for env in ENVS.values()], strict=True)
        return (states, jnp.zeros((), jnp.int32)), self._chosen(observations)

    def step(self, state, action, key):
        states, clock = state
        results = [
            env.step(state, action[: env.spec.action_size], key)
            for env, state in zip(ENVS.values(), states, strict=True)
        ]
        states, *others = zip(*results, strict=True)
        obs, reward, terminated = map(self._chosen, others)
        terminated = terminated | (self.confused & (clock + 1 >= LIMIT))
        return (states, clock + 1), obs, reward, terminated


@pytest.fixture(scope="module")
def learned():
    """Learned values of one-hot observations, `[frame, frame]` where stacked: [confused, environment, state]."""
    settings = {"num_envs": 64, "rollout": 4, "iterations_per_evaluation": 100, "evaluation_episodes": 1}
    algorithm = ppo(
        hidden=(8,),
        value_hidden=(32,),
        discount=DISCOUNT,
        minibatches=2,
        learning_rate=5e-3,
        # A rate that falls, so that what is read at the end is no fluctuation.
        learning_rate_floor=0.02,
        learning_rate_warmup=1,
        learning_rate_cycle=100,
        gae_dialect="exact",
        entropy_coefficient=0.0,
    )

    @eqx.filter_jit
    def train(number, confused):
        program = on_policy(algorithm, AnyChain(number, confused), normalise_observations=False, **settings)
        state, _ = program.step(program.init(jax.random.key(0)))
        obs = jax.vmap(seen)(jnp.arange(LENGTH))
        stacked = jnp.concatenate([obs, obs], axis=1)
        padded = jnp.pad(obs, ((0, 0), (0, LENGTH)))
        shown = jnp.where(number == list(ENVS).index("stack"), stacked, padded)
        return jax.vmap(state.algorithm.value)(shown)

    numbers = jnp.arange(len(ENVS))
    both = jax.vmap(jax.vmap(train, (0, None)), (None, 0))(numbers, jnp.array([False, True]))
    right, wrong = np.asarray(both)
    return {name: (right[i], wrong[i]) for i, name in enumerate(ENVS)}


@pytest.mark.parametrize("name", ENVS)
def test_values_are_those_of_the_uncut_chain(learned, name):
    right, wrong = learned[name]
    truth = [value(state, DISCOUNT, TOGETHER.get(name, 1)) for state in range(LENGTH)]
    np.testing.assert_allclose(right, truth, atol=0.05)
    # Whoever confuses the two is far off, the farther the longer the chain that it does not see: by twenty times the
    # tolerance at its start.
    assert truth[0] - wrong[0] > 1.0
    assert (np.asarray(truth[:3]) - wrong[:3] > 0.5).all()


def test_the_closed_form_is_the_recursion():
    for together in (1, 2, 4):
        for state in range(LENGTH):
            paid = min(together, LENGTH - state)
            rest = value(state + together, DISCOUNT, together) if state + together < LENGTH else 0.0
            np.testing.assert_allclose(value(state, DISCOUNT, together), paid + DISCOUNT * rest)
