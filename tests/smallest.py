"""Every method at its smallest: settings that compile fast, made-up experience, and an update on it."""

import dataclasses
import inspect
import typing
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from dpolicy import _types
from dpolicy._types import Transition
from dpolicy.algorithm import Stored
from dpolicy.algorithms import ALGORITHMS


class Spec(NamedTuple):
    obs_size: int = 3
    action_size: int = 2


SPEC = Spec()
# Shapes only: what keeps a compilation short. Every number is left at its default.
_ON_POLICY = {"value_hidden": (8,), "epochs": 2, "minibatches": 2}
_DIFFUSION = {"hidden": (8,), "critic_hidden": (8,), "sampler_steps": 2}
_SLOW = {"average_interval": 1, "average_after": 0}
_PHASES = {"behaviour_updates": 1, "critic_updates": 1, "support": 2}
_ENTROPY = {"entropy_samples": 4, "entropy_interval": 1, "actor_interval": 1}
TINY = {
    "bc": {"hidden": (8,), "sampler_steps": 2},
    "iql": {"hidden": (8,), "critic_hidden": (8,)},
    "sql": {"hidden": (8,), "critic_hidden": (8,)},
    "eql": {"hidden": (8,), "critic_hidden": (8,)},
    "idql": {**_DIFFUSION, "candidates": 2, "evaluation_candidates": 2},
    "sfbc": {
        **_DIFFUSION,
        "sampler": "heun",
        "behaviour_updates": 1,
        "critic_updates": 1,
        "support": 2,
        "candidates": 8,
        "evaluation_candidates": 8,
    },
    "ifql": {**_DIFFUSION, "candidates": 2, "evaluation_candidates": 2},
    "diffusion_ql": {**_DIFFUSION, **_SLOW, "candidates": 2, "evaluation_candidates": 2},
    "edp": {**_DIFFUSION, **_SLOW, "candidates": 2, "evaluation_candidates": 2},
    "edp_crr": {
        **_DIFFUSION,
        **_SLOW,
        "advantage_actions": 2,
        "candidates": 2,
        "evaluation_candidates": 2,
    },
    "edp_iql": {**_DIFFUSION, "candidates": 2, "evaluation_candidates": 2},
    "dac": {
        **_DIFFUSION,
        **_SLOW,
        "critics": 3,
        "backup_actions": 2,
        "candidates": 2,
        "evaluation_candidates": 2,
    },
    # The last phase alone, in which everything moves.
    "bdpo": {
        **_DIFFUSION,
        **{"critics": 3, "backup_actions": 2, "step_draws": 2, "candidates": 2, "evaluation_candidates": 2},
        **{"behaviour_updates": 0, "critic_updates": 0, "actor_interval": 1, "average_interval": 1},
        **{"embedding": "raw", "value_embedding": "raw"},
    },
    # From a network that has learned nothing a diffusion ends far beyond the box, where all actions are one.
    "diffusion_dice": {
        **{"schedule": "variance_exploding", "prediction": "data", "sampler": "ddim"},
        **{**_DIFFUSION, "energy_hidden": (8,), "draws": 2, "behaviour_updates": 1},
        **{"candidates": 2, "evaluation_candidates": 2},
    },
    "fql": {**_DIFFUSION},
    # From a network that has learned nothing a diffusion ends far beyond the box, where all actions are one.
    "qgpo": {
        **{"schedule": "variance_exploding", "prediction": "data", "sampler": "ddim"},
        **{**_DIFFUSION, **_PHASES, "energy_hidden": (8,)},
    },
    "qipo": {**_DIFFUSION, **_PHASES, "renewal_updates": 1},
    "dtql": {
        "hidden": (8,),
        "behaviour_hidden": (8,),
        "critic_hidden": (8,),
        "pretraining_updates": 0,
        "candidates": 2,
        "evaluation_candidates": 2,
    },
    "pa_rl": {
        **_DIFFUSION,
        **{"candidates": 3, "kept_candidates": 2, "ascent_steps": 1},
        **{"critics": 3, "critic_atoms": 5, "random_actions": 1},
        **{"cloning_updates": 0, "distillation_after": 0},
    },
    "td3_bc": {"hidden": (8,), "critic_hidden": (8,)},
    "rebrac": {"hidden": (8,), "critic_hidden": (8,)},
    "sac": {"hidden": (8,), "critic_hidden": (8,)},
    "ddpg": {"hidden": (8,), "critic_hidden": (8,)},
    # Two numbers of it matter from the second update on, whose target actor is another.
    "td3": {"hidden": (8,), "critic_hidden": (8,)},
    "crossq": {"hidden": (8,), "critic_hidden": (8,)},
    "dsac_t": {"hidden": (8,), "critic_hidden": (8,)},
    "fast_td3": {"hidden": (8,), "critic_hidden": (8,), "critic_atoms": 5},
    "fast_sac": {"hidden": (8,), "critic_hidden": (8,), "critic_atoms": 5, "actor_interval": 1},
    "flash_sac": {"hidden": (8,), "critic_hidden": (8,), "atoms": 5},
    # Copies at each update, and an assessment for each step.
    "td7": {
        **{"hidden": (8,), "critic_hidden": (8,), "encoder_hidden": (8,), "embedding_size": 4},
        **{"target_interval": 1, "later_episodes": 1, "later_after": 0},
    },
    "bro": {
        "hidden": (8,),
        "critic_hidden": (8,),
        "explorer_hidden": (8,),
        "critic_atoms": 5,
        "reset_updates": (2,),
    },
    "sdac": {
        "hidden": (8,),
        "critic_hidden": (8,),
        "samples": 4,
        "sampler_steps": 2,
        "evaluation_candidates": 2,
    },
    "qsm": {"hidden": (8,), "critic_hidden": (8,), "sampler_steps": 2, "evaluation_candidates": 2},
    "idem": {**_DIFFUSION, "samples": 4, "evaluation_candidates": 2},
    "dps": {**_DIFFUSION, "samples": 4},
    "maxentdp": {
        **_DIFFUSION,
        "samples": 4,
        "density_steps": 2,
        "density_draws": 2,
        "evaluation_candidates": 2,
    },
    "qvpo": {
        **_DIFFUSION,
        "candidates": 4,
        "uniform_candidates": 2,
        "exploration_candidates": 2,
        "backup_candidates": 2,
        "evaluation_candidates": 2,
    },
    "dpmd": {**_DIFFUSION, "candidates": 2, "noise_interval": 1, "evaluation_candidates": 2},
    "fpmd": {**_DIFFUSION, "candidates": 2, "noise_interval": 1},
    "gempo": {
        **_DIFFUSION,
        "candidates": 8,
        "reference_interval": 1,
        "evaluation_candidates": 2,
    },
    "dipo": {"hidden": (8,), "critic_hidden": (8,), "sampler_steps": 2, "ascent_steps": 3},
    "ddiffpg": {
        **_DIFFUSION,
        "ascent_steps": 3,
        "atoms": 5,
        "novelty_hidden": (8,),
        "max_modes": 2,
        "path_points": 4,
        "clustered_episodes": 8,
        "remembered_episodes": 16,
        "discovery_interval": 1,
    },
    "dacer": {**_DIFFUSION, **_ENTROPY},
    "dacerv2": {**_DIFFUSION, **_ENTROPY},
    "cpql": {
        "hidden": (8,),
        "critic_hidden": (8,),
        "candidates": 2,
        "evaluation_candidates": 2,
        "target_interval": 1,
        "target_after": 0,
    },
    "dsac_d": {
        **{"hidden": (8,), "sampler_steps": 2, "critic_hidden": (8,), "value_steps": 2, "value_samples": 2},
        **{"embedding": "raw", "value_embedding": "raw", "entropy_estimate": "gaussian"},
        **_ENTROPY,
    },
    "dime": {"hidden": (8,), "critic_hidden": (8,), "sampler_steps": 2, "time_size": 8, "atoms": 5},
    "consistency_ac": {
        "hidden": (8,),
        "critic_hidden": (8,),
        "sampler_steps": 2,
        "candidates": 2,
        "evaluation_candidates": 2,
        "random_updates": 2,
        "average_interval": 1,
        "average_after": 0,
    },
    "ppo": {"hidden": (8,), **_ON_POLICY},
    "fpo": {"hidden": (8,), "draws": 2, "sampler_steps": 2, **_ON_POLICY},
    "fpopp": {"hidden": (8,), "draws": 3, "sampler_steps": 2, "ema_after": 0, **_ON_POLICY},
    # Its clip's rate matters only where the clip grows.
    "dppo": {"hidden": (8,), "sampler_steps": 4, "trained_steps": 3, "clip_low": 1e-5, **_ON_POLICY},
    "genpo": {"hidden": (8,), "sampler_steps": 2, "kl_estimator": "k3", **_ON_POLICY},
    "dp_cppo": {
        "hidden": (8,),
        "flow_hidden": (8,),
        "flow_steps": 2,
        "flow_epochs": 2,
        "flow_minibatches": 2,
        **_ON_POLICY,
    },
}
# A second value for each numeric hyperparameter: half the default, unless that is no change or not allowed.
SECOND = {
    "clip": 1e-5,
    "largest_weight": 0.5,
    "largest_exponent": 1e-3,
    "floor": -1.0,
    "noise_share": 0.5,
    "anneal_updates": 2.0,
    "value_clip": 0.01,
    "target_kl": 1e-4,
    "stop_kl": 1e-12,
    "max_grad_norm": 1e-3,
    "gradient_bound": 1e-6,
    "advantage_clip": 0.1,
    "loss_clip": 0.1,
    "log_ratio_clip": 1e-6,
    "noise_bound": 0.5,
    "clip_rate": 60.0,
    "q_clip": 1e-3,
    "log_prob_low": 1.0,
    "log_prob_high": 0.0,
    "value_low": -1.0,
    "ascent_norm": 1e-7,
    "exploration_updates": 0.0,
    "selection_temperature": 0.05,
    "pessimism": 0.5,
    "target_entropy_scale": 0.7,
    "consistency_weight": 0.5,
    "random_share": 0.9,
    "cloning_weight": 0.5,
    "critic_high": 7.5,
    "target_noise_clip": 1e-4,
}


def build(name, **numbers):
    return ALGORITHMS[name].recipe(**TINY[name], **numbers)


def numeric(name):
    """The hyperparameters that are numbers, whatever range they have, with their defaults."""
    recipe = ALGORITHMS[name].recipe
    parameters, kinds = inspect.signature(recipe).parameters.values(), typing.get_type_hints(recipe)
    numbers = (_types.Number, _types.Number | None)
    return {p.name: p.default for p in parameters if kinds[p.name] in numbers and p.default is not None}


def with_needed(algorithm, action):
    """What a data set holds for an algorithm that needs it: made up of the actions."""
    entries = {
        "next_action": action[::-1],
        "next_action_known": jnp.arange(action.shape[0]) % 4 > 0,
        "mc_return": action[:, 0],
    }
    return {name: entries[name] for name in algorithm.extras}


@eqx.filter_jit  # its operations one by one take longer to compile
def experience(algorithm, state, key, time=4, envs=4):
    """Random transitions whose extras come from the algorithm itself."""
    keys = jax.random.split(key, 5)
    lead = (time, envs) if algorithm.family == "on_policy" else (time * envs,)
    flat = time * envs
    obs = jax.random.normal(keys[0], (flat, SPEC.obs_size))
    action, extras = jax.vmap(algorithm.act, in_axes=(None, 0, 0, None))(
        state, obs, jax.random.split(keys[1], flat), "explore"
    )
    term = jax.random.bernoulli(keys[2], 0.2, (flat,))
    trunc = jax.random.bernoulli(keys[3], 0.2, (flat,)) & ~term
    reward = jax.random.normal(keys[4], (flat,))
    extras = extras if len(lead) == 2 else with_needed(algorithm, action)
    batch = Transition(obs, action, reward, obs[::-1], term, trunc, extras)
    return jax.tree.map(lambda leaf: leaf.reshape(*lead, *leaf.shape[1:]), batch)


def updated(algorithm, state, batch, key):
    """One update, on drawn transitions that have been revised where the algorithm does that.

    An algorithm that looks at the replay, or draws from it, sees one that is half full of them.
    """
    memory = algorithm.memory
    if memory is not None:
        batch = dataclasses.replace(batch, extras=jax.vmap(memory.start)(batch))
        if algorithm.family == "offline":
            stored = Stored(batch, jnp.asarray(0), jnp.asarray(batch.reward.shape[0]), 1)
            _, extras = memory.organise(state, stored, jax.random.fold_in(key, 1))
            batch = dataclasses.replace(batch, extras=extras)
        if memory.draw is not None:
            size = batch.reward.shape[0]
            items = jax.tree.map(lambda leaf: jnp.concatenate([leaf, jnp.zeros_like(leaf)]), batch)
            stored = Stored(items, jnp.asarray(size), jnp.asarray(size), 4)
            if memory.organise is not None:
                state, extras = memory.organise(state, stored, jax.random.fold_in(key, 1))
                stored = stored._replace(items=dataclasses.replace(items, extras=extras))
            if memory.enter is not None:  # episodes of one step
                ended = jnp.ones_like(batch.terminated)
                before = stored._replace(
                    items=dataclasses.replace(items, terminated=jnp.ones_like(items.terminated))
                )
                new = jax.tree.map(lambda leaf: leaf[:4], dataclasses.replace(batch, terminated=ended))
                state, _ = memory.enter(state, before, new)
            rows = memory.draw(state, stored, jax.random.fold_in(key, 2), size)
            batch = jax.tree.map(lambda leaf: leaf[rows], stored.items)
        batch = memory.revise(state, batch, jax.random.fold_in(key, 0))
    return algorithm.update(state, batch, key)
