"""The denoising chain as decisions: its likelihood, its schedules, frozen steps."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.scipy.stats import norm

from dpolicy._types import Transition
from dpolicy.algorithms import dppo
from dpolicy.envs.protocol import Spec
from dpolicy.fields import CosineVP, DiscreteVP, Field, RectifiedFlow, cosine_betas, ddpm_table
from dpolicy.losses import chain_log_likelihood, clip_schedule, clipped, denoising_discounts, log_ratio
from dpolicy.samplers import ddim, ddpm, ode

OBS, KEY, SIZE, STEPS = jnp.array([0.3, -0.2]), jax.random.key(0), 3, 6
NOISY = {"min_std": 0.1, "final_noise": True}


def network(key, schedule=None):
    schedule = DiscreteVP(cosine_betas(STEPS)) if schedule is None else schedule
    return Field(2, SIZE, schedule=schedule, prediction="noise", hidden=(16,), key=key)


def stored(chain, **extras):
    zero, no = jnp.zeros(()), jnp.asarray(False)
    return Transition(OBS, chain[-1], zero, OBS, no, no, {"chain": chain, **extras})


def test_posterior_deviations():
    table = {
        5: [0, 0.2834, 0.5033, 0.7258, 0.9514],
        10: [0, 0.1442, 0.2432, 0.3273, 0.4065, 0.4878, 0.5781, 0.6873, 0.8310, 0.9874],
    }
    for steps, expected in table.items():
        found = ddpm_table(DiscreteVP(cosine_betas(steps)), steps).posterior_std
        np.testing.assert_allclose(found, expected, atol=1e-4)
        sampled = ddpm(steps=steps, variance="posterior").coefficients(
            network(KEY, DiscreteVP(cosine_betas(steps)))
        )
        np.testing.assert_allclose(sampled.std, expected[::-1], atol=1e-4)


def test_schedules_over_the_steps():
    expected = [0.001, 0.001187, 0.001447, 0.001810, 0.002317, 0.003025, 0.004013, 0.005391, 0.007315, 0.01]
    np.testing.assert_allclose(clip_schedule(10, 0.001, 0.01, 3.0), expected, atol=1e-6)
    np.testing.assert_allclose(clip_schedule(1, 0.001, 0.01), [0.01])
    np.testing.assert_allclose(clip_schedule(4, 0.1, 0.1), 0.1)
    expected = [0.913517, 0.922745, 0.932065, 0.941480, 0.950990, 0.960596, 0.970299, 0.980100, 0.99, 1.0]
    np.testing.assert_allclose(denoising_discounts(10, 0.99), expected, atol=1e-6)


@pytest.mark.parametrize("schedule", [None, CosineVP()])
@pytest.mark.parametrize("make", [ddpm, lambda **kwargs: ddim(eta=1.0, recompute=True, **kwargs)])
def test_likelihood_is_that_of_the_chain(make, schedule, x64):
    """Each step's Gaussian, computed from the definition: no clamp, sum over the action."""
    sampler, field = make(steps=STEPS, **NOISY), network(KEY, schedule)
    chain = sampler.chain(field, OBS, jax.random.key(1))
    logs = chain_log_likelihood(sampler, bounds=None, reduction="sum")(field, stored(chain), KEY)
    for step in range(STEPS):
        mean, std = sampler.kernel(field, chain[step], OBS, step)
        assert std >= 0.1
        np.testing.assert_allclose(logs[step], np.sum(norm.logpdf(chain[step + 1], mean, std)), rtol=1e-10)
    last = chain_log_likelihood(sampler, trained=2, bounds=None)(field, stored(chain[-3:]), KEY)
    np.testing.assert_allclose(last, logs[-2:] / SIZE, rtol=1e-10)
    bounded = chain_log_likelihood(sampler, bounds=(-0.5, 0.5))(field, stored(chain), KEY)
    assert np.all(np.abs(bounded) <= 0.5)


def test_importance_weights_have_mean_one():
    """E_old[exp(sum of the steps' log-ratios)] = 1: the chain's density is the sampler's."""
    sampler, field = ddpm(steps=STEPS, variance="posterior", **NOISY), network(KEY)
    moved = jax.tree.map(lambda a, b: a + 0.02 * b, field, network(jax.random.key(7)))
    likelihood = chain_log_likelihood(sampler, bounds=None, reduction="sum")

    @jax.jit
    @jax.vmap
    def weight(key):
        example = stored(sampler.chain(field, OBS, key))
        old, new = (likelihood(f, example, key) for f in (field, moved))
        return jnp.exp(jnp.sum(new - old)), jnp.max(jnp.abs(new - old))

    weights, changes = map(np.asarray, weight(jax.random.split(KEY, 20_000)))
    assert weights.std() > 0.05
    assert changes.max() > 0.01
    assert abs(weights.mean() - 1) < 4 * weights.std() / np.sqrt(len(weights))


def test_surrogate_gradient_is_that_of_the_discounted_log_densities(x64):
    sampler, field = ddpm(steps=STEPS, **NOISY), network(KEY)
    likelihood = chain_log_likelihood(sampler)
    chain = sampler.chain(field, OBS, jax.random.key(1))
    example = stored(chain, advantage=jnp.asarray(0.7), log_prob=likelihood(field, stored(chain), KEY))
    weights = denoising_discounts(STEPS, 0.9)
    loss = clipped(log_ratio(likelihood), eps=clip_schedule(STEPS, 0.01, 0.1), weights=weights)
    value, metrics = loss(field, example, KEY)
    np.testing.assert_allclose(value, -0.7 * np.mean(weights), rtol=1e-12)
    assert metrics["ratio_min"] == metrics["ratio_max"] == 1
    grad = lambda fn: eqx.filter_grad(fn)(field)
    ours = grad(lambda f: loss(f, example, KEY)[0])
    expected = grad(lambda f: -0.7 * jnp.mean(weights * likelihood(f, example, KEY)))
    for left, right in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-9, atol=1e-12)


def test_clip_of_each_step():
    """A ratio outside its own step's range loses its gradient, one inside a wider range does not."""
    log = lambda model, example, key: model * jnp.array([1.0, 1.0])
    loss = clipped(log_ratio(log), eps=jnp.array([0.01, 0.5]))
    example = stored(jnp.zeros((1, 1)), advantage=jnp.asarray(1.0), log_prob=jnp.zeros(2))
    model = jnp.asarray(0.1)
    value, metrics = loss(model, example, KEY)
    np.testing.assert_allclose(value, -(1.01 + np.exp(0.1)) / 2, rtol=1e-6)
    np.testing.assert_allclose(
        jax.grad(lambda m: loss(m, example, KEY)[0])(model), -np.exp(0.1) / 2, rtol=1e-6
    )
    assert metrics["clip_fraction"] == 0.5


def test_one_ratio_is_not_broadcast_over_several_steps(unchecked_types):
    example = stored(jnp.zeros((1, 1)), advantage=jnp.asarray(1.0), log_prob=jnp.zeros(()))
    one = log_ratio(lambda model, example, key: model)
    several = jnp.array([0.01, 0.5])
    with pytest.raises(ValueError, match=r"eps must be a number or of the shape \(1,\), got \(2,\)"):
        clipped(one, eps=several)(jnp.asarray(0.1), example, KEY)
    with pytest.raises(ValueError, match=r"ratios, weights must have the same shape, got \(1,\), \(2,\)"):
        clipped(one, eps=0.1, weights=several)(jnp.asarray(0.1), example, KEY)


def test_early_steps_belong_to_the_frozen_field():
    """The last steps start where the frozen field's chain is, and nothing of the trained one enters before."""
    sampler, frozen, trained = ddpm(steps=STEPS, **NOISY), network(KEY), network(jax.random.key(2))
    chain = sampler.chain(trained, OBS, KEY, early=frozen, last=2)
    assert chain.shape == (3, SIZE)
    np.testing.assert_allclose(chain[0], sampler.chain(frozen, OBS, KEY)[-3], rtol=1e-6)
    own = sampler.chain(trained, OBS, KEY, last=2)
    np.testing.assert_allclose(own, sampler.chain(trained, OBS, KEY)[-3:], rtol=1e-6)
    first = lambda field: jnp.sum(sampler.chain(field, OBS, KEY, early=frozen, last=2)[0])
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(eqx.filter_grad(first)(trained)))


def test_pretrained():
    spec = Spec("task", 2, SIZE, 5)
    field = network(KEY, CosineVP())
    algorithm = dppo(
        pretrained=field, sampler_steps=4, trained_steps=2, cloning_coefficient=0.1, value_hidden=(8,)
    )
    state = algorithm.init(KEY, spec)
    for kept in (state.policy, state.pretrained):
        for left, right in zip(jax.tree.leaves(kept), jax.tree.leaves(field), strict=True):
            np.testing.assert_array_equal(left, right)
    _, extras = algorithm.act(state, OBS, KEY, "explore")
    assert extras["chain"].shape == extras["frozen"].shape == (3, SIZE)
    assert extras["log_prob"].shape == (2,)
    with pytest.raises(
        ValueError, match="pretrained must give actions of size 1, those of task, got one of 3"
    ):
        algorithm.init(KEY, Spec("task", 2, 1, 5))
    with pytest.raises(ValueError, match="cloning_coefficient needs a pretrained field, got 0.1"):
        dppo(cloning_coefficient=0.1)


def test_the_chain_of_a_flow(x64):
    """FPO's baseline: Euler's steps with the same noise in each, their joint densities, tanh of the last point."""
    algorithm = dppo(
        denoiser="euler", sampler_steps=4, exploration_std=0.05, squash=True, reduction="sum", log_prob_low=None,
        log_prob_high=None, noise_bound=None, hidden=(8,), value_hidden=(4,),
    )  # fmt: skip
    state = algorithm.init(KEY, Spec("task", 2, SIZE, 5))
    field = state.policy
    assert (field.prediction, type(field.schedule)) == ("velocity", RectifiedFlow)
    act = jax.jit(jax.vmap(lambda key: algorithm.act(state, OBS, key, "explore")))
    action, extras = act(jax.random.split(KEY, 500))
    chain, logs = extras["chain"], extras["log_prob"]
    np.testing.assert_allclose(action, np.tanh(chain[:, -1]), rtol=1e-12)
    noise = []
    for i in range(4):
        t = jnp.asarray(1 - i / 4)
        mean = chain[:, i] - jax.vmap(lambda x, t=t: field(x, t, OBS))(chain[:, i]) / 4
        noise.append((chain[:, i + 1] - mean) / 0.05)
        expected = norm.logpdf(chain[:, i + 1], mean, 0.05).sum(axis=1)
        np.testing.assert_allclose(logs[:, i], expected, rtol=1e-9)
    noise = np.stack(noise)
    assert abs(noise.std() - 1) < 4 / np.sqrt(2 * noise.size)
    assert abs(noise.mean()) < 4 / np.sqrt(noise.size)
    calm = algorithm.act(state, OBS, KEY, "evaluate")[0]
    np.testing.assert_allclose(calm, np.tanh(ode(steps=4)(field, OBS, KEY)), rtol=1e-9)
    with pytest.raises(ValueError, match="schedule_steps must be None for the denoiser euler, got 8"):
        dppo(denoiser="euler", schedule_steps=8)


def test_bad_arguments():
    with pytest.raises(ValueError, match="min_std must be a finite number in"):
        chain_log_likelihood(ddpm(steps=4, final_noise=True))
    with pytest.raises(ValueError, match="final_noise=True"):
        chain_log_likelihood(ddpm(steps=4, min_std=0.1))
    with pytest.raises(ValueError, match=r"the sampler must not clip x \(clip_state=None\), .* got 2.0"):
        chain_log_likelihood(ddpm(steps=4, clip_state=2.0, **NOISY))
    with pytest.raises(ValueError, match="trained must be an integer from 1 to 4, got 5"):
        chain_log_likelihood(ddpm(steps=4, **NOISY), trained=5)
    with pytest.raises(ValueError, match="reduction must be one of mean, sum"):
        chain_log_likelihood(ddpm(steps=4, **NOISY), reduction="max")
    with pytest.raises(ValueError, match="trained_steps must be an integer from 1 to 10, got 11"):
        dppo(trained_steps=11)
    with pytest.raises(
        ValueError, match="schedule_steps must be a multiple of the sampler_steps of 7, got 100"
    ):
        dppo(denoiser="ddim", schedule_steps=100, sampler_steps=7)
