"""What each method acts by in each mode: which networks of its state, which settings, and whether by chance."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax.tree_utils
import pytest
from smallest import SECOND, SPEC, TINY, experience, numeric

from dpolicy.algorithms import ALGORITHMS
from dpolicy.learning import Parts, Tuned
from dpolicy.optimisers import Learner, ema
from dpolicy.samplers import coupled, ddim, ddpm, ode

# Networks of the state, numeric settings, and "key" where chance decides; see `parts_of` for the names. A setting of
# exploration that evaluation listened to would stand in the wrong column.
#   method: explores by, is evaluated by
ACTS = {
    "bc": ("average key", "average key"),
    "iql": ("actor key", "actor"),
    "sql": ("actor key", "actor"),
    "eql": ("actor key", "actor"),
    "idql": ("average target key", "average target key"),
    "sfbc": ("actor critic key selection_temperature", "actor critic key selection_temperature"),
    "ifql": ("actor critic key", "actor critic key"),
    "diffusion_ql": ("actor target key selection_temperature", "actor target key selection_temperature"),
    "edp": ("actor critic key selection_temperature", "actor critic key selection_temperature"),
    "edp_crr": ("actor critic key selection_temperature", "actor critic key selection_temperature"),
    "edp_iql": ("actor critic key selection_temperature", "actor critic key selection_temperature"),
    "dac": ("actor target key", "actor target key"),
    "bdpo": ("average target key", "average target key"),
    "diffusion_dice": (
        "behaviour energy target key guidance_scale",
        "behaviour energy target key guidance_scale",
    ),
    "fql": ("actor key", "actor key"),
    "qgpo": ("behaviour energy key guidance_scale", "behaviour energy key guidance_scale"),
    "qipo": ("actor key", "actor key"),
    "dtql": ("actor target key selection_temperature", "actor target key selection_temperature"),
    "pa_rl": ("actor critic key ascent_rate", "actor critic key ascent_rate"),
    "td3_bc": ("actor key exploration_noise", "actor"),
    "rebrac": ("actor key exploration_noise", "actor"),
    "sac": ("actor key", "actor"),
    "ddpg": ("actor key exploration_noise", "actor"),
    "td3": ("actor key exploration_noise", "actor"),
    "crossq": ("actor key", "actor"),
    "dsac_t": ("actor key", "actor"),
    "td7": ("behaviour key exploration_noise", "checkpoint"),
    "fast_td3": ("actor key exploration_low exploration_high", "actor"),
    "fast_sac": ("actor key", "actor"),
    "flash_sac": ("actor key", "actor"),
    "bro": ("actor explorer key explorer_width", "actor"),
    "sdac": ("actor key initial_scale", "actor critic key initial_scale"),
    "qsm": ("actor key exploration_noise", "actor critic key"),
    "idem": ("actor key exploration_noise", "actor critic key"),
    "dps": ("actor key", "actor key"),
    "maxentdp": ("actor key", "actor target key"),
    "qvpo": ("actor critic key", "actor critic key"),
    "dpmd": ("average critic noise key exploration_noise", "average critic key"),
    "fpmd": ("average critic noise key exploration_noise", "average"),
    "gempo": ("actor key", "actor critic key"),
    "dipo": ("actor key", "actor key"),
    "ddiffpg": (
        "actor embedding key exploration_low exploration_high exploration_updates",
        "actor key",
    ),
    "dacer": ("actor noise key exploration_noise", "actor key"),
    "dacerv2": ("actor noise key exploration_noise", "actor key"),
    "cpql": ("actor target key selection_temperature", "actor target key selection_temperature"),
    "dsac_d": ("actor noise key exploration_noise", "actor key"),
    "dime": ("actor key prior_std", "actor key prior_std"),
    "consistency_ac": (
        "actor target key selection_temperature random_share",
        "actor target key selection_temperature",
    ),
    "ppo": ("policy key", "policy"),
    "fpo": ("policy key", "policy key"),
    "fpopp": ("policy key action_noise", "average"),
    "dppo": ("policy key exploration_std noise_bound", "policy key"),
    "genpo": ("policy key mixing", "policy key mixing"),
    "dp_cppo": ("average policy key", "average policy key"),
}
# Further modes.
MODES = {
    "ddiffpg": {"mode_1": "actor embedding key", "mode_2": "actor embedding key"},
    "fpopp": {"zero": "average", "random": "average key"},
    "genpo": {"zero": "policy mixing", "random": "policy key mixing"},
    "dp_cppo": {
        "flow": "average key",
        "flow+residual": "average policy key",
        "flow+residual+noise": "average policy key",
        "improved": "before policy key",
    },
}


# In fewer steps every action of DPS ends on a face of the box, whatever its field says.
SETTINGS = TINY | {"dps": TINY["dps"] | {"sampler_steps": 10}}


def make(name, **numbers):
    return ALGORITHMS[name].recipe(**SETTINGS[name], **numbers)


# What no policy acts by: states of optimisers, counters.
NOT_ACTING = ("update", "updates", "moves")
# Parts that two methods call by different names, or that the tables above call by another.
CALLED = {"flow": "fitted", "previous": "before", "deployed": "average", "discovered": "embedding"}


def parts_of(state):
    """Where the parts of a state that may act are in it, by name."""

    def where(name):
        if name == "discovered":
            return lambda s: s[name].embedding
        if isinstance(state[name], Tuned):
            return lambda s: s[name].log.model
        return (lambda s: s[name].model) if isinstance(state[name], Learner) else (lambda s: s[name])

    called = CALLED if "critic" in state or "policy" in state else {"actor": "fitted"}
    return {called.get(name, name): where(name) for name in state if name not in NOT_ACTING}


def scaled(tree, factor):
    return jax.tree.map(lambda leaf: factor * leaf if eqx.is_inexact_array(leaf) else leaf, tree)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_what_acting_depends_on(name):
    algorithm, numbers = make(name), numeric(name)
    state = jax.jit(algorithm.init, static_argnums=1)(jax.random.key(0), SPEC)
    parts = parts_of(state)
    if name == "ddiffpg":  # as if its modes were there
        state = eqx.tree_at(lambda s: s.discovered.live, state, replace_fn=jnp.ones_like)
    if "random_updates" in SETTINGS[name]:  # through which it may act at random, at first always
        state = Parts(state, updates=state.updates + 1)
    if name == "fast_sac":  # whose actor starts at 0
        state = eqx.tree_at(parts["actor"], state, jax.tree.map(lambda x: x + 0.1, parts["actor"](state)))
    for i, where in enumerate(parts.values()):  # no two copies alike
        state = eqx.tree_at(where, state, scaled(where(state), 1 - 0.1 * i))
    rows = {"nothing": (state, {}, 0)}
    for part, where in parts.items():
        # Draws from a softmax of values show large differences only.
        factor = -7.0 if part in ("critic", "target") else -0.7
        rows[part] = eqx.tree_at(where, state, scaled(where(state), factor)), {}, 0
    rows["key"] = state, {}, 1
    for number, value in numbers.items():
        rows[number] = state, {number: SECOND.get(number, value / 2)}, 0
    obs = jnp.linspace(-1.0, 1.0, SPEC.obs_size)

    @jax.jit
    def acts(states, settings, keys):
        def one(state, given, key):
            algorithm = make(name, **given)
            act = jax.vmap(lambda key, mode: algorithm.act(state, obs, key, mode)[0], (0, None))
            return {mode: act(jax.random.split(key, 8), mode) for mode in algorithm.modes}

        return jax.vmap(one)(states, settings, keys)

    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(row[0] for row in rows.values()))
    settings = {
        n: jnp.asarray([row[1].get(n, v) for row in rows.values()], float) for n, v in numbers.items()
    }
    keys = jnp.stack([jax.random.key(row[2]) for row in rows.values()])
    outcome = acts(states, settings, keys)
    explore, evaluate = ACTS[name]
    expected = {"explore": explore, "evaluate": evaluate, **MODES.get(name, {})}
    assert set(outcome) == set(expected)
    for mode, values in outcome.items():
        found = {n for i, n in enumerate(rows) if np.any(values[i] != values[0])}
        assert found == set(expected[mode].split()), mode


EXPLORES = {"noise_bound": 3.0, "final_noise": True, "min_std": 0.1}
# Methods by settings and mode: the sampler of the field that acts, without the key that is split off for other draws.
BY_HAND = {
    ("dppo", "ddpm", "explore"): ddpm(steps=4, variance="posterior", **EXPLORES),
    ("dppo", "ddpm", "evaluate"): ddpm(steps=4, variance="posterior", min_std=1e-3),
    ("dppo", "ddim", "explore"): ddim(steps=4, eta=1.0, recompute=True, **EXPLORES),
    ("dppo", "ddim", "evaluate"): ddim(steps=4, eta=0.0, recompute=True),
    ("dppo", "euler", "explore"): ddim(steps=4, eta=0.0, clip=None, **EXPLORES),
    ("dppo", "euler", "evaluate"): ode(steps=4),
    ("fpo", None, "evaluate"): ode(steps=2),
    ("fpopp", None, "zero"): ode(steps=2, initial="zero"),
    ("fpopp", None, "random"): ode(steps=2),
    ("genpo", None, "random"): coupled(steps=2, mixing=0.9),
    ("bc", None, "evaluate"): ode(steps=2, clip=1.0),
}


@pytest.mark.parametrize(("name", "denoiser", "mode"), BY_HAND)
def test_actions_by_hand(name, denoiser, mode, x64):
    settings = {} if denoiser is None else {"denoiser": denoiser, "trained_steps": 4}
    algorithm = ALGORITHMS[name].recipe(**TINY[name] | settings)
    keys = jax.random.split(jax.random.key(0))
    state = jax.jit(algorithm.init, static_argnums=1)(keys[0], SPEC)
    parts = parts_of(state)
    field = parts.get("average", parts.get("policy"))(state)
    # Far enough from where it starts that it moves actions.
    field = scaled(field, 5.0)
    state = eqx.tree_at(parts.get("average", parts.get("policy")), state, field)
    obs, sampler = jnp.linspace(-1.0, 1.0, SPEC.obs_size), BY_HAND[name, denoiser, mode]
    squash = jnp.tanh if name == "fpo" else lambda action: action

    @jax.jit
    def both(key):
        own = jax.random.split(key)[0] if mode == "explore" else key
        return algorithm.act(state, obs, key, mode)[0], squash(sampler(field, obs, own))

    np.testing.assert_allclose(*both(keys[1]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["dpmd", "fpmd"])
def test_the_start_of_mirror_descent_is_half_as_wide(name):
    """As the codes have it: a field that moves nothing leaves x_1 of deviation 1/2, without noise on the action."""
    flow = {"schedule": "rectified_flow", "prediction": "velocity", "sampler": "euler"}
    algorithm = ALGORITHMS[name].recipe(**TINY[name] | {"candidates": 1}, **flow)
    state = jax.jit(algorithm.init, static_argnums=1)(jax.random.key(0), SPEC)
    state = eqx.tree_at(lambda s: s.average, state, scaled(state.average, 0.0))
    state = eqx.tree_at(lambda s: s["noise"].log.model, state, jnp.asarray(-20.0))
    keys = jax.random.split(jax.random.key(1), 4_000)
    act = jax.vmap(lambda key: algorithm.act(state, jnp.zeros(SPEC.obs_size), key, "explore")[0])
    actions = np.asarray(jax.jit(act)(keys))
    # E[clip(x, -1, 1)^2] of N(0, 1/4) is 0.2301, of N(0, 1) it would be 0.5161.
    np.testing.assert_allclose(np.mean(np.clip(actions, -1, 1) ** 2), 0.2301, rtol=0.05)


def test_what_the_flow_of_dp_cppo_is_fitted_to():
    """Actions of the improved residual around proposals of the average, which then becomes the policy's predecessor."""
    settings = TINY["dp_cppo"] | {"flow_epochs": 1, "flow_minibatches": 1}
    algorithm = ALGORITHMS["dp_cppo"].recipe(**settings)
    keys = jax.random.split(jax.random.key(0), 3)
    state = algorithm.init(keys[0], SPEC)
    parts = parts_of(state)
    for i, where in enumerate(parts.values()):
        state = eqx.tree_at(where, state, scaled(where(state), 1 - 0.1 * i))
    batch = experience(algorithm, state, keys[1])
    rows = {"nothing": (state, batch)}
    for part, where in parts.items():
        rows[part] = eqx.tree_at(where, state, scaled(where(state), -0.7)), batch
    rows["reward"] = state, eqx.tree_at(lambda b: b.reward, batch, batch.reward[::-1])
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows.values())
    new, _ = jax.jit(jax.vmap(algorithm.update, in_axes=(0, 0, None)))(*stacked, keys[2])
    gradients = jax.tree.leaves(optax.tree_utils.tree_get(new["flow"].opt_state, "mu"))
    found = {n for i, n in enumerate(rows) if any(np.any(leaf[i] != leaf[0]) for leaf in gradients)}
    # What rewards and values say reaches it through the residual, whose epochs come before.
    assert found == {"policy", "value", "fitted", "average", "reward"}
    first = jax.tree.map(lambda leaf: leaf[0], new)
    for now, before in zip(*map(jax.tree.leaves, (first.previous, state.average)), strict=True):
        np.testing.assert_array_equal(now, before)
    mixed = ema(state.average, first.flow, 0.999)
    for now, expected in zip(*map(jax.tree.leaves, (first.average, mixed)), strict=True):
        np.testing.assert_allclose(now, expected, rtol=1e-6)
