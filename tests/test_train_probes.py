"""Every trainer on every probe environment: learned values and actions against the known ones.

FPO++, DPPO and GenPO differ from the on-policy methods here by their likelihoods alone, which are tested by hand
(`test_proximal.py`, `test_on_policy_checks.py`).
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.algorithms import ALGORITHMS
from dpolicy.envs import Environment, Probe
from dpolicy.envs.protocol import Spec
from dpolicy.train import off_policy, on_policy, policy_of

TASKS = ["constant", "observation", "discount", "action", "observation_action", "time_limit"]
PROBES = [Probe(task) for task in TASKS]
# What the harder three ask for, the others ask for alone: these take half of the time.
HARD = ["discount", "observation_action", "time_limit"]
EVERY = ("sac", "ppo")
DISCOUNT = 0.9


def tasks_of(name: str) -> list[str]:
    return TASKS if name in EVERY else HARD


class AnyProbe(Environment):
    """The probe of a number, so that one compiled program trains on all of them."""

    spec: Spec
    number: Any

    def __init__(self, number):
        self.spec = Spec("probe/any", 1, 1, 2)
        self.number = number

    def reset(self, key):
        return jax.lax.switch(self.number, [probe.reset for probe in PROBES], key)

    def step(self, state, action, key):
        return jax.lax.switch(self.number, [probe.step for probe in PROBES], state, action, key)


ON = {"num_envs": 64, "rollout": 4, "iterations_per_evaluation": 40, "evaluation_episodes": 1}
OFF = {"num_envs": 8, "batch_size": 64, "replay_size": 8_192, "warmup": 512, "evaluation_interval": 8 * 500}
NETS = {"hidden": (32,), "discount": DISCOUNT}
CRITIC = {"critic_hidden": (32,), "critic_learning_rate": 1e-2, "target_rate": 0.1, "learning_rate": 3e-3}
PROXIMAL = {"value_hidden": (32,), "minibatches": 2, "learning_rate": 3e-3, "gae_dialect": "exact"}
DIFFUSION = {"sampler_steps": 5, "evaluation_candidates": 2}
SETTINGS = {
    "sac": {"temperature": 1e-3, "tune_temperature": False, **CRITIC},
    "sdac": {"temperature": 0.05, "samples": 8, **DIFFUSION, **CRITIC},
    "qsm": {"temperature": 0.05, "variant": "paper", **DIFFUSION, **CRITIC, "sampler_steps": 10},
    "dipo": {"sampler_steps": 5, "ascent_norm": None, "max_grad_norm": None, **CRITIC},
    "ppo": {"entropy_coefficient": 0.0, "epochs": 8, **PROXIMAL},
    "fpo": {"sampler_steps": 8, "draws": 4, "epochs": 5, "max_grad_norm": 1.0, "clip": 0.2, **PROXIMAL},
    "dp_cppo": {
        "entropy_coefficient": 0.0,
        "flow_hidden": (32,),
        "flow_steps": 4,
        "flow_epochs": 2,
        "ema_decay": 0.9,
        **PROXIMAL,
    },
}


def program_of(name: str, env: Environment) -> Any:
    entry = ALGORITHMS[name]
    algorithm = entry.recipe(**NETS, **SETTINGS[name])
    if entry.family == "on_policy":
        return on_policy(algorithm, env, normalise_observations=False, **ON)
    return off_policy(algorithm, env, evaluation_episodes=1, **OFF)


def value_function(name: str, state: Any) -> Callable[[Any, Any], Any]:
    """V(s), or Q(s, a), as the learner has it."""
    if ALGORITHMS[name].family == "on_policy":
        return lambda obs, action: state.algorithm.value(obs)
    return lambda obs, action: jnp.min(state.algorithm.critic(obs, action))


# It runs for longer than it compiles.
@partial(jax.jit, static_argnums=0, compiler_options={"xla_backend_optimization_level": 1})
def learned(name: str) -> Any:
    """Values at s = -1, 0, 1 (at the best action) and evaluation actions there: two arrays [task, 3], and returns."""

    def one(number: Any) -> Any:
        env = AnyProbe(number)
        program = program_of(name, env)
        state, metrics = program.step(program.init(jax.random.key(0)))
        value, policy = value_function(name, state), policy_of(program.algorithm, state)
        best = [probe.optimal_action for probe in PROBES]

        def at(s: Any) -> Any:
            obs = jnp.full(1, s)
            actions = jax.vmap(lambda key: policy(obs, key))(jax.random.split(jax.random.key(1), 64))
            return value(obs, jax.lax.switch(number, best, obs)), jnp.mean(actions)

        return *jax.vmap(at)(jnp.array([-1.0, 0.0, 1.0])), metrics["evaluate/return"]

    return jax.vmap(one)(jnp.asarray([TASKS.index(task) for task in tasks_of(name)]))


@pytest.mark.parametrize("name", SETTINGS)
def test_values_and_actions_are_learned(name):
    values, actions, _ = map(np.asarray, learned(name))
    tasks, off = tasks_of(name), ALGORITHMS[name].family == "off_policy"
    value = lambda task, s: values[tasks.index(task), s + 1]
    action = lambda task, s: actions[tasks.index(task), s + 1]
    near = lambda measured, truth: np.testing.assert_allclose(measured, truth, atol=0.1)
    near([value("discount", 0), value("discount", 1)], [DISCOUNT, 1.0])
    for s in (-1, 1):
        # The wrong answers of this probe, s / (1 + discount / 2), are 0.16 away.
        near(value("time_limit", s), s / (1 + DISCOUNT))
        np.testing.assert_allclose(action("observation_action", s), 0.5 * s, atol=0.15)
        if off:
            near(value("observation_action", s), 1.0)
    if tasks == TASKS:
        near([value("constant", 0), value("observation", -1), value("observation", 1)], [1.0, -1.0, 1.0])
        np.testing.assert_allclose(action("action", 0), 0.5, atol=0.15)
        if off:
            near(value("action", 0), 1.0)


# The rest of the matching family: how it is fed is tested above, so it learns from uniform actions here, on the probe
# that tests actions and the one that tests bootstraps.
FAMILY = {
    "idem": {"samples": 8, "temperature": 0.1, "normalise_temperature": False},
    "dps": {
        "samples": 8,
        "initial_temperature": 0.5,
        "final_temperature": 0.05,
        "anneal_updates": 100.0,
        "proposal": "truncated",
        "schedule": "cosine",
        "sampler": "ddpm",
    },
    "maxentdp": {"samples": 8, "temperature": 1e-3, "density_steps": 2, "density_draws": 1},
    "qvpo": {"candidates": 8, "uniform_candidates": 1, "max_grad_norm": None},
    "dpmd": {"candidates": 4, "initial_noise": 1.0, "noise_interval": 10},
    "fpmd": {"candidates": 4, "initial_noise": 1.0, "noise_interval": 10, "temperature": 1.0},
    "gempo": {"candidates": 8, "reference_interval": 20, "target_kl": 1.0},
}
LESS = {"sampler_steps": 5, "evaluation_candidates": 2, "embedding": "cos_sin", "prediction": "noise"}


@eqx.filter_jit
def learned_off_policy(name: str) -> Any:
    """Values at s = -1, 1 (at the best action) and evaluation actions there: two arrays [task, 2]."""
    frame = {**LESS, "prediction": "velocity"} if name == "fpmd" else LESS
    algorithm = ALGORITHMS[name].recipe(**NETS, **CRITIC, **frame, **FAMILY[name])

    def one(number: Any) -> Any:
        env = AnyProbe(number)

        def transition(key: Any) -> Transition:
            keys = jax.random.split(key, 3)
            state, obs = env.reset(keys[0])
            action = jax.random.uniform(keys[1], (1,), minval=-1.0)
            _, following, reward, terminated = env.step(state, action, keys[2])
            truncated = jax.random.bernoulli(keys[2]) & ~terminated
            return Transition(obs, action, reward, following, terminated, truncated)

        def step(state: Any, key: Any) -> Any:
            batch_key, key = jax.random.split(key)
            batch = jax.vmap(transition)(jax.random.split(batch_key, 32))
            return algorithm.update(state, batch, key)[0], None

        start = algorithm.init(jax.random.key(0), env.spec)
        state, _ = jax.lax.scan(step, start, jax.random.split(jax.random.key(1), 600))

        def at(s: Any) -> Any:
            obs = jnp.full(1, s)
            act = lambda key: algorithm.act(state, obs, key, "evaluate")[0]
            best = jnp.where(number == TASKS.index("observation_action"), 0.5 * obs, jnp.zeros(1))
            return jnp.min(state.critic(obs, best)), jnp.mean(
                jax.vmap(act)(jax.random.split(jax.random.key(2), 64))
            )

        return jax.vmap(at)(jnp.array([-1.0, 1.0]))

    return jax.vmap(one)(jnp.asarray([TASKS.index("observation_action"), TASKS.index("time_limit")]))


@pytest.mark.parametrize("name", FAMILY)
def test_the_matching_family_learns_from_uniform_actions(name):
    values, actions = map(np.asarray, learned_off_policy(name))
    np.testing.assert_allclose(values[0], 1.0, atol=0.1)
    np.testing.assert_allclose(values[1], np.asarray([-1, 1]) / (1 + DISCOUNT), atol=0.1)
    np.testing.assert_allclose(actions[0], [-0.5, 0.5], atol=0.2)
