"""What a training program is given: one sentence for what it cannot be made of, before anything is compiled."""

import re

import jax
import jax.numpy as jnp
import pytest

from dpolicy.algorithm import Algorithm
from dpolicy.algorithms import bc, ddiffpg, dppo, ppo, sac
from dpolicy.envs import MultiGoal, make
from dpolicy.train import off_policy, offline, on_policy, train_loop

ENV = make("probe/action")


def own(*, act=None, update=None):
    """An algorithm that does nothing, but for a slip."""
    return Algorithm(
        "own",
        "off_policy",
        lambda key, spec: {"weight": jnp.ones(2), "count": jnp.zeros((), jnp.int32)},
        act or (lambda state, obs, key, mode: (jnp.zeros(1), {})),
        update or (lambda state, batch, key: (state, {})),
    )


TINY = {"num_envs": 2, "batch_size": 2, "replay_size": 8, "warmup": 4, "evaluation_interval": 2}


@pytest.mark.parametrize(
    ("slip", "sentence"),
    [
        ({}, None),
        (
            {"act": lambda state, obs, key, mode: jnp.zeros(1)},
            "act of own must return (action, extras), with a dict of extras, got a ",
        ),
        (
            {"act": lambda state, obs, key, mode: (jnp.zeros(2), {})},
            "act of own, as the action, must return an array of shape (1,), got shape (2,).",
        ),
        (
            {"act": lambda state, obs, key, mode: (jnp.zeros(1, int), {})},
            "act of own must return an action of floats, got int32.",
        ),
        (
            {"update": lambda state, batch, key: state},
            "update of own must return (state, metrics), with a dict of metrics, got a dict.",
        ),
        (
            {"update": lambda state, batch, key: ({**state, "count": state["count"] + 1.0}, {})},
            "update of own must keep structure, shapes and types of its state, but state['count'] was int32[] and is "
            "float32[].",
        ),
        (
            {"update": lambda state, batch, key: ({"weight": state["weight"]}, {})},
            "but state['count'] was int32[] and is missing.",
        ),
        (
            {"update": lambda state, batch, key: (state, {"loss": batch.reward})},
            "update of own, as the metric 'loss', must return a scalar, got shape (2,).",
        ),
    ],
)
def test_what_an_algorithm_of_ones_own_returns(unchecked_types, slip, sentence):
    program = off_policy(own(**slip), ENV, **TINY)
    look = lambda: jax.eval_shape(program.step, jax.eval_shape(program.init, jax.random.key(0)))
    if sentence is None:
        look()
        return
    with pytest.raises(ValueError, match=re.escape(sentence)):
        look()


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (
            lambda: off_policy(sac, ENV),
            "algorithm must be an Algorithm, as sac() is: call the recipe, got <function",
        ),
        (
            lambda: on_policy(ppo, ENV),
            "algorithm must be an Algorithm, as ppo() is: call the recipe, got <function",
        ),
        (
            lambda: offline(bc, ENV),
            "algorithm must be an Algorithm, as bc() is: call the recipe, got <function",
        ),
        (lambda: off_policy("sac", ENV), "algorithm must be an Algorithm, got 'sac'."),
        (lambda: on_policy(None, ENV), "algorithm must be an Algorithm, got None."),
        (lambda: off_policy(ppo(), ENV), "algorithm.family must be one of off_policy; got 'on_policy'."),
        (lambda: off_policy(sac(), "multigoal"), "env must be an Environment, got 'multigoal'."),
        (lambda: on_policy(ppo(), MultiGoal), "env must be an Environment, as MultiGoal() is, got <class "),
        (lambda: offline(bc(), ENV.spec), "env must be an Environment, got Spec("),
        (
            lambda: off_policy(sac(), ENV, batch_size=17, warmup=4, replay_size=16),
            "batch_size must not exceed the replay_size of 16, got 17.",
        ),
        (
            lambda: off_policy(sac(), ENV, batch_size=4, num_envs=8, warmup=17, replay_size=16),
            "warmup must not exceed the replay_size of 16, got 24.",
        ),
        (
            lambda: on_policy(ppo(), ENV, num_envs=10**6, rollout=10**3, iterations_per_evaluation=3),
            "num_envs * rollout * iterations_per_evaluation must be an integer from 1 to 2147483647, got 3000000000.",
        ),
        (
            lambda: off_policy(sac(), ENV, evaluation_modes=("evaluate", "explore", "explore")),
            "evaluation_modes must hold each mode once, got ('evaluate', 'explore', 'explore').",
        ),
        (
            lambda: train_loop(off_policy(sac(), ENV, warmup=1000), steps=1000),
            "steps must exceed the 1000 that are taken before learning starts, got 1000.",
        ),
        (
            lambda: ppo(epochs=10**12),
            "epochs must be an integer from 1 to 2147483647, got 1000000000000.",
        ),
        (
            lambda: ddiffpg(exploration_low=0.7),
            "exploration_low must not exceed exploration_high, got 0.7 and 0.6.",
        ),
        (lambda: dppo(clip=0.1, clip_low=0.2), "clip_low must not exceed clip, got 0.2 and 0.1."),
        (lambda: dppo(log_prob_low=3.0), "log_prob_low must not exceed log_prob_high, got 3.0 and 2.0."),
    ],
)
def test_one_sentence(unchecked_types, call, sentence):
    with pytest.raises(ValueError, match=re.escape(sentence)):
        call()
