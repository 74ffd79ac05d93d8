"""The proximal update by hand: small methods and a rollout of theirs, advantages, log-likelihoods, and losses."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax.tree_utils
from jax.scipy.stats import norm

from dpolicy._types import Transition
from dpolicy.algorithms import ALGORITHMS, dp_cppo, dppo, fpo, fpopp, genpo, ppo
from dpolicy.envs import MultiGoal
from dpolicy.fields import RectifiedFlow
from dpolicy.losses import grid_times, perturb, power_times
from dpolicy.losses.match import start
from dpolicy.samplers import coupled, ddpm

DISCOUNT, TRACE = 0.9, 0.8


def by_hand(model, batch, *, brax):
    """Standardised advantages, returns, and the steps that enter the value loss, [time * envs]."""
    following = np.asarray(jax.vmap(jax.vmap(model.value))(batch.next_obs))
    columns = batch.extras["value"], batch.reward, batch.terminated, batch.truncated
    value, reward, term, trunc = (np.asarray(x, float) for x in columns)
    mask = 1 - trunc if brax else np.ones_like(trunc)
    advantage, returns, later = np.zeros_like(value), np.zeros_like(value), np.zeros(value.shape[1])
    for t in reversed(range(len(value))):
        reach = DISCOUNT * (1 - term[t])
        one_step = mask[t] * (reward[t] + reach * (following[t] + later) - value[t])
        delta = mask[t] * (reward[t] + reach * following[t] - value[t])
        later = delta + DISCOUNT * TRACE * (1 - term[t]) * (1 - trunc[t]) * later
        advantage[t], returns[t] = one_step if brax else later, value[t] + later
    return ((advantage - advantage.mean()) / (advantage.std() + 1e-8)).ravel(), returns.ravel(), mask.ravel()


def log_likelihood(name, policy, example):
    """log pi(a | s), or its proxy, without the library's formula for it."""
    extras = example.extras
    if name in ("fpo", "fpopp"):
        law = grid_times(2) if name == "fpo" else power_times(1.0)

        def loss(key):
            clean = eqx.tree_at(lambda e: e.action, example, extras["unsquashed"])
            match = perturb(RectifiedFlow(), times=law)(clean, start(clean), jax.random.fold_in(key, 0))
            x0, eps, t = extras["unsquashed"], match.target.noise[0], match.t[0]
            square = (policy((1 - t) * x0 + t * eps, t, example.obs) - (eps - x0)) ** 2
            return (
                jnp.mean((1 - t) ** 2 * square) if name == "fpo" else jnp.sum(square) / np.sqrt(square.size)
            )

        return -jnp.mean(jax.vmap(loss)(jax.random.split(extras["key"], 2)))
    if name == "dppo":
        sampler = ddpm(steps=3, variance="posterior", min_std=0.1, final_noise=True)
        chain, total = extras["chain"], 0.0
        for j, weight in enumerate((0.5, 1.0)):  # discounted towards the noisier of the two trained steps
            mean, std = sampler.kernel(policy, chain[j], example.obs, j + 1)
            total += weight * jnp.mean(norm.logpdf(chain[j + 1], mean, std))
        return total / 2
    if name == "genpo":
        z = coupled(steps=2).inverse(policy, extras["pair"], example.obs)
        return -jnp.sum(z**2) / 2
    mean = policy.mlp(example.obs) if name == "ppo" else None
    if name == "dp_cppo":
        mean = extras["base"] + policy.mlp(example.obs, extras["base"])
    return jnp.sum(norm.logpdf(example.action, mean, jnp.exp(policy.log_std)))


def off_by(batch, far):
    """How far the log-ratio of each stored likelihood is from 0 after `moved`, some by more than any clip."""
    log_prob = batch.extras["log_prob"]
    return jnp.linspace(far, -2 * far, log_prob.size).reshape(log_prob.shape)


def moved(name, far):
    """As if another policy had acted, and another value network had looked on."""

    def edit(batch):
        extras = {**batch.extras, "log_prob": batch.extras["log_prob"] - off_by(batch, far)}
        if name in ("ppo", "dp_cppo"):
            extras |= {"mean": extras["mean"] + far, "log_std": extras["log_std"] - far}
        # Further from what is expected now than a clipped value may go.
        extras["value"] += jnp.linspace(-1.0, 1.0, batch.reward.size).reshape(batch.reward.shape)
        return eqx.tree_at(lambda b: b.extras, batch, extras)

    return edit


# What each method has beside its surrogate: settings, and the terms of its loss with their sign.
REGULARISED = {
    "ppo": ({"entropy_coefficient": 0.03}, {"entropy": -0.03}),
    "fpo": ({}, {}),
    "fpopp": ({"entropy_coefficient": 0.03}, {"entropy": -0.03}),
    "dppo": ({}, {}),
    "genpo": ({"compression_coefficient": 0.03}, {"compression": 0.03}),
    "dp_cppo": (
        {"entropy_coefficient": 0.03, "score_coefficient": 0.02},
        {"entropy": -0.03, "score": 0.02},
    ),
}


def check_moved(name, model, batch, metrics, far):
    """Losses, estimates of the KL and the adaptive rate where another policy acted, by hand."""
    advantage, returns, mask = by_hand(model, batch, brax=name == "fpo")
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
    near = lambda found, expected: np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)
    logs = np.asarray(off_by(batch, far)).reshape(advantage.size, -1)
    ratio, eps = np.exp(logs), {"fpo": 0.05, "fpopp": 0.05, "dppo": 0.1}.get(name, 0.2)
    weighed = advantage[:, None] * (np.asarray([0.5, 1.0]) if name == "dppo" else np.ones(logs.shape[1]))
    objective = np.minimum(ratio * weighed, np.clip(ratio, 1 - eps, 1 + eps) * weighed)
    if name == "fpopp":  # SPO where the advantage is not positive
        objective = np.where(
            weighed > 0, objective, ratio * weighed - np.abs(weighed) * (ratio - 1) ** 2 / (2 * eps)
        )
    prefix = "policy/" if name == "fpo" else "policy/ppo/"
    clipped, k1, k3 = np.mean(np.abs(ratio - 1) > eps), -np.mean(logs), np.mean(ratio - 1 - logs)
    for metric, expected in (
        *(("loss", -np.mean(objective)), ("ratio", np.mean(ratio)), ("clip_fraction", clipped)),
        *(("ratio_min", ratio.min()), ("ratio_max", ratio.max()), ("kl", k3), ("kl_k1", k1)),
    ):
        near(metrics[prefix + metric], expected)
    std = np.exp(model.policy.log_std) if name in ("ppo", "dp_cppo") else np.ones(2)
    if name in ("ppo", "dp_cppo"):
        near(metrics["policy/entropy/loss"], np.sum(np.log(std)) + np.log(2 * np.pi * np.e))
    if name == "dp_cppo":
        base = flat.extras["base"]
        force = jax.vmap(model.policy.mlp)(flat.obs, base) + std[None] ** 2 * base / 2
        near(metrics["policy/score/loss"], np.mean(np.sum(force**2, axis=1)))
    terms = [share * metrics[f"policy/{term}/loss"] for term, share in REGULARISED[name][1].items()]
    near(metrics["policy/loss"], -np.mean(objective) + sum(terms))
    now, old = np.asarray(jax.vmap(model.value)(flat.obs)), np.asarray(flat.extras["value"])
    errors = (now - returns) ** 2
    if name in ("ppo", "genpo", "dp_cppo"):
        errors = np.maximum(errors, (old + np.clip(now - old, -0.2, 0.2) - returns) ** 2)
    near(metrics["value/loss"], np.mean(mask * errors))
    coefficient = {"fpo": 0.25, "dppo": 0.25}.get(name, 1.0)
    near(metrics["loss"], metrics["policy/loss"] + coefficient * metrics["value/loss"])
    near(metrics["explained_variance"], 1 - np.var(returns - old) / np.var(returns))
    near(metrics["log_prob"], np.mean(batch.extras["log_prob"]))
    # KL(old || new): of the old policy the mean is off by `far` and the width smaller by exp(far).
    closed = np.sum(far + np.exp(-2 * far) / 2 + far**2 / (2 * std**2) - 1 / 2)
    if name in ("ppo", "dp_cppo", "genpo"):
        near(metrics["kl"], k1 if name == "genpo" else closed)
        rate = inspect.signature(ALGORITHMS[name].recipe).parameters["learning_rate"].default
        near(metrics["learning_rate"], rate / 1.5 if far > 0.1 else rate * 1.5)
    elif name == "dppo":
        near(metrics["kl"], k3)


SPEC = MultiGoal().spec
SMALL = {"hidden": (8,), "value_hidden": (8,), "discount": DISCOUNT, "trace": TRACE, "max_grad_norm": 1e9}
ONCE = {"epochs": 1, "minibatches": 1}
# Without their regularisers, so that what is left is the surrogate.
MAKE = {
    "ppo": lambda **kwargs: ppo(**SMALL, **{"entropy_coefficient": 0.0, "value_clip": 0.2, **kwargs}),
    "fpo": lambda **kwargs: fpo(**SMALL, **{"draws": 2, "sampler_steps": 2, **kwargs}),
    "fpopp": lambda **kwargs: fpopp(
        **SMALL, **{"draws": 2, "sampler_steps": 2, "weight_decay": None, "action_noise": 0.1, **kwargs}
    ),
    "dppo": lambda **kwargs: dppo(
        **SMALL,
        **{
            "sampler_steps": 3,
            "trained_steps": 2,
            "denoising_discount": 0.5,
            "normalise_advantages": "rollout",
            "log_prob_low": -1e3,
            "log_prob_high": 1e3,
            "value_learning_rate": None,
            **kwargs,
        },
    ),
    "genpo": lambda **kwargs: genpo(
        **SMALL, **{"sampler_steps": 2, "compression_coefficient": 0.0, **kwargs}
    ),
    "dp_cppo": lambda **kwargs: dp_cppo(
        **SMALL,
        **{"entropy_coefficient": 0.0, "score_coefficient": 0.0, "flow_hidden": (8,), "flow_steps": 2}
        | {"flow_epochs": 1, "flow_minibatches": 1, **kwargs},
    ),
}


def started(algorithm, key):
    """`algorithm.init` in one program: its operations one by one take longer to compile."""
    return eqx.filter_jit(algorithm.init)(key, SPEC)


@eqx.filter_jit
def rollout(algorithm, state, key, time=5, envs=4):
    """Random transitions with both ends of an episode, acted on by the algorithm itself; [time, envs]."""
    keys = jax.random.split(key, 6)
    flat = time * envs
    obs = jax.random.normal(keys[0], (flat, SPEC.obs_size))
    action, extras = jax.vmap(algorithm.act, in_axes=(None, 0, 0, None))(
        state, obs, jax.random.split(keys[1], flat), "explore"
    )
    term = jax.random.bernoulli(keys[2], 0.3, (flat,))
    trunc = jax.random.bernoulli(keys[3], 0.4, (flat,)) & ~term
    next_obs = jax.random.normal(keys[4], obs.shape)
    if extras:  # as if the value network had moved since
        extras = {**extras, "value": extras["value"] + 0.1}
    batch = Transition(obs, action, jax.random.normal(keys[5], (flat,)), next_obs, term, trunc, extras)
    return jax.tree.map(lambda leaf: leaf.reshape(time, envs, *leaf.shape[1:]), batch)


def gradient_of(state):
    """The gradient of the first step: Adam's first moment starts at zero and takes a tenth of it."""
    return jax.tree.map(lambda leaf: leaf / 0.1, optax.tree_utils.tree_get(state["update"], "mu"))
