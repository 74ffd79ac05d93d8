"""The checks of the on-policy family's papers that concern more than one block; each names what it is of."""

from dataclasses import replace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax.tree_utils
import pytest
from jax.scipy.stats import norm
from proximal_by_hand import MAKE, ONCE, SPEC, by_hand, gradient_of, rollout, started
from scipy import integrate

from dpolicy import learning
from dpolicy._types import Transition
from dpolicy.algorithms import dppo, fpo, ppo
from dpolicy.blocks import explore_matched, matched_ratio, proximal
from dpolicy.envs.protocol import Spec
from dpolicy.fields import DiscreteVP, Field, FunctionField, RectifiedFlow, cosine_betas
from dpolicy.learning import Parts
from dpolicy.losses import (
    adaptive_rate,
    bounded_advantage,
    chain_log_likelihood,
    clipped,
    flow_matching_log_ratio,
    log_ratio,
    matching,
    perturb,
    ppo_clip,
)
from dpolicy.networks import ResidualGaussian, gaussian_kl
from dpolicy.optimisers import adam
from dpolicy.presets import preset, resolve
from dpolicy.samplers import ddpm, ode
from dpolicy.samplers._predict import predict_pair

OBS, KEY = jnp.zeros(2), jax.random.key(0)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))]


def furthest(a, b):
    return max(float(np.max(np.abs(x - y))) for x, y in zip(leaves(a), leaves(b), strict=True))


def beside(state):
    """The parts of a method that are not those of `proximal`."""
    return {
        name: part for name, part in state.items() if name not in ("policy", "value", "update", "updates")
    }


def rate_of(state):
    return optax.tree_utils.tree_get(state["update"], "learning_rate")


def test_ppo_on_a_one_step_bandit():
    """r = -(a - 1)^2: the mean goes to 1, and without an entropy bonus the width shrinks."""
    spec = Spec("bandit", 1, 1, 1)
    algorithm = ppo(
        hidden=(8,), value_hidden=(8,), entropy_coefficient=0.0, learning_rate=3e-3, target_kl=None
    )
    obs, yes = jnp.zeros((256, 1)), jnp.ones((1, 256), bool)

    def one(state, key):
        act_key, update_key = jax.random.split(key)
        act = jax.vmap(algorithm.act, in_axes=(None, 0, 0, None))
        action, extras = act(state, obs, jax.random.split(act_key, 256), "explore")
        batch = Transition(obs, action, -jnp.sum((action - 1) ** 2, axis=1), obs, yes[0], ~yes[0], extras)
        batch = jax.tree.map(lambda leaf: leaf[None], batch)
        return algorithm.update(state, batch, update_key)[0], None

    state = algorithm.init(KEY, spec)
    state = jax.jit(lambda s, k: jax.lax.scan(one, s, k)[0])(state, jax.random.split(KEY, 60))
    policy = state.policy
    np.testing.assert_allclose(policy.mean(jnp.zeros(1)), 1.0, atol=0.1)
    assert np.exp(policy.log_std[0]) < 0.6


def test_ppo_with_a_squashed_policy(x64):
    """The density of the action by the change of variables, the entropy's estimate, the closed form of the KL."""
    algorithm = MAKE["ppo"](
        **ONCE, policy="tanh_gaussian", initial_std=0.5, entropy_coefficient=0.1, target_kl=1.0
    )
    keys = jax.random.split(KEY, 3)
    state = started(algorithm, keys[0])
    batch = rollout(algorithm, state, keys[1])
    np.testing.assert_allclose(batch.action, np.tanh(batch.extras["unsquashed"]), rtol=1e-12)
    policy, obs = state.policy, jnp.ones(SPEC.obs_size)
    np.testing.assert_array_equal(algorithm.act(state, obs, KEY, "evaluate")[0], policy.mode(obs))

    def density(policy, obs, action):
        mean, q = jnp.split(policy.mlp(obs), 2)
        u, std = jnp.arctanh(action), jax.nn.softplus(q) + 1e-3
        return jnp.sum(norm.logpdf(u, mean, std) - jnp.log(1 - action**2))

    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
    stored = jax.vmap(density, (None, 0, 0))(policy, flat.obs, flat.action)
    np.testing.assert_allclose(flat.extras["log_prob"], stored, rtol=1e-7)
    update = jax.jit(algorithm.update)
    after, metrics = update(state, batch, keys[2])
    assert metrics["policy/ppo/ratio_min"] == metrics["policy/ppo/ratio_max"] == 1
    assert metrics["kl"] == 0
    plain = jax.jit(MAKE["ppo"](**ONCE, policy="tanh_gaussian", initial_std=0.5).update)
    advantage, _, _ = by_hand(state, batch, brax=False)
    loss = lambda p: -jnp.mean(advantage * jax.vmap(density, (None, 0, 0))(p, flat.obs, flat.action))
    without = gradient_of(plain(state, batch, keys[2])[0]).policy
    for left, right in zip(leaves(without), leaves(eqx.filter_grad(loss)(policy)), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-10)
    # What the bonus adds points where the entropy grows.
    added = jax.tree.map(lambda a, b: b - a, gradient_of(after).policy, without)
    entropy = lambda p: jnp.mean(
        jax.vmap(lambda o: jnp.mean(jax.vmap(p.entropy, (None, 0))(o, many)))(flat.obs)
    )
    many = jax.random.split(jax.random.key(3), 200)
    ascent = eqx.filter_jit(eqx.filter_grad(entropy))(policy)
    inner = sum(float(np.sum(a * b)) for a, b in zip(leaves(added), leaves(ascent), strict=True))
    sizes = [np.sqrt(sum(float(np.sum(a**2)) for a in leaves(tree))) for tree in (added, ascent)]
    assert inner / (sizes[0] * sizes[1]) > 0.8
    np.testing.assert_allclose(sizes[0], 0.1 * sizes[1], rtol=0.3)
    with pytest.raises(ValueError, match="policy must be one of gaussian, tanh_gaussian; got 'beta'"):
        ppo(policy="beta")


def test_the_rate_is_adapted_before_the_step_it_is_for():
    """The first minibatch has KL 0, the second not: the update's last rate is the rule applied to the second KL."""
    keys = jax.random.split(KEY, 3)
    settings = {"epochs": 2, "minibatches": 1, "learning_rate": 1e-3}
    algorithm = MAKE["ppo"](**settings, target_kl=1e-9)  # any step exceeds twice this
    state = started(algorithm, keys[0])
    batch = rollout(algorithm, state, keys[1])
    after, _ = jax.jit(algorithm.update)(state, batch, keys[2])
    np.testing.assert_allclose(rate_of(after), adaptive_rate(1e-3, 1.0, 1e-9), rtol=1e-6)
    # The second step is taken with the lowered rate: 1 / 1.5 of what a fixed rate makes of the same Adam direction.
    once, _ = jax.jit(MAKE["ppo"](**settings | {"epochs": 1}, target_kl=None).update)(state, batch, keys[2])
    fixed, _ = jax.jit(MAKE["ppo"](**settings, target_kl=None).update)(state, batch, keys[2])
    second = lambda s: jax.tree.map(lambda a, b: a - b, s.policy, once.policy)
    for slow, fast in zip(leaves(second(after)), leaves(second(fixed)), strict=True):
        np.testing.assert_allclose(slow, fast / 1.5, rtol=1e-2, atol=1e-7)


def test_stop_kl_leaves_the_rest_of_an_iteration_out():
    keys = jax.random.split(KEY, 3)
    stopping = MAKE["ppo"](epochs=5, minibatches=1, stop_kl=1e-12, target_kl=None)
    state = stopping.init(keys[0], SPEC)
    batch = rollout(stopping, state, keys[1])
    after, metrics = jax.jit(stopping.update)(state, batch, keys[2])
    once, _ = jax.jit(MAKE["ppo"](**ONCE, target_kl=None).update)(state, batch, keys[2])
    learner = lambda state: [state[name] for name in ("policy", "value", "update")]
    assert furthest(learner(after), learner(once)) < 1e-6  # optimiser state included
    assert furthest(learner(after)[:2], learner(state)[:2]) > 1e-6
    np.testing.assert_allclose(metrics["stopped"], 0.8)


def test_a_rate_falls_though_the_step_that_went_too_far_is_undone():
    keys = jax.random.split(KEY, 3)
    settings = {"minibatches": 1, "learning_rate": 1e-3, "target_kl": 1e-13}
    algorithm = MAKE["ppo"](**settings, epochs=3, stop_kl=1e-12)
    state = started(algorithm, keys[0])
    batch = rollout(algorithm, state, keys[1])
    after, metrics = jax.jit(algorithm.update)(state, batch, keys[2])
    once, _ = jax.jit(MAKE["ppo"](**settings, epochs=1).update)(state, batch, keys[2])
    assert furthest([after.policy, after.value], [once.policy, once.value]) < 1e-6
    np.testing.assert_allclose(metrics["stopped"], 2 / 3, rtol=1e-6)
    np.testing.assert_allclose(rate_of(after), 1e-3 / 1.5**2, rtol=1e-6)


@pytest.mark.parametrize("name", ["ppo", "genpo", "fpopp", "dp_cppo"])
def test_warm_up_trains_the_critic_alone(name):
    """Neither the policy, its optimiser state, so that its first step is an ordinary one, the rate, nor what follows.

    That is the flow of DP-CPPO and the average of FPO++, with its count of updates.
    """
    keys = jax.random.split(KEY, 3)
    # A decay of the weights would move a policy whose gradient is zero.
    settings = {"ema_after": 0, "weight_decay": 0.1} if name == "fpopp" else {}
    algorithm = MAKE[name](epochs=2, minibatches=2, critic_warmup=1, **settings)
    update = jax.jit(algorithm.update)
    state = started(algorithm, keys[0])
    # The averages are not what they are averages of, nor what they were before.
    scaled = lambda tree: jax.tree.map(lambda leaf: 0.9 * leaf if eqx.is_inexact_array(leaf) else leaf, tree)
    extra = {part: scaled(leaves) for part, leaves in beside(state).items()}
    if name == "dp_cppo":
        extra["previous"] = scaled(extra["previous"])
    state = Parts(state, extra)
    batch = rollout(algorithm, state, keys[1])
    warm, _ = update(state, batch, keys[2])
    assert furthest(warm.policy, state.policy) == 0
    assert furthest(warm.value, state.value) > 1e-5
    moments = optax.tree_utils.tree_get(warm["update"], "inner_states")["policy"]
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(moments))  # its count of steps too
    assert rate_of(warm) == rate_of(state)
    for now, before in zip(*map(jax.tree.leaves, (beside(warm), beside(state))), strict=True):
        np.testing.assert_array_equal(now, before)
    trained, _ = update(warm, batch, keys[2])
    assert furthest(trained.policy, warm.policy) > 1e-6
    if name in ("fpopp", "dp_cppo"):
        assert furthest(beside(trained), beside(warm)) > 1e-6
    if name == "dp_cppo":  # what the flow was fitted to the actions of
        assert furthest(trained.previous, warm.average) == 0
        assert furthest(trained.previous, trained.average) > 1e-8


def test_the_flow_is_fitted_where_its_actions_were_drawn():
    """What comes after an end is nobody's observation: whatever stands there, the update is the same."""
    keys = jax.random.split(KEY, 3)
    algorithm = MAKE["dp_cppo"](**ONCE)
    state = started(algorithm, keys[0])
    batch = rollout(algorithm, state, keys[1])
    ends = jnp.ones_like(batch.terminated)
    ended = eqx.tree_at(lambda b: (b.terminated, b.truncated), batch, (ends, ~ends))
    update = jax.jit(lambda next_obs: algorithm.update(state, replace(ended, next_obs=next_obs), keys[2])[0])
    new, other = update(batch.next_obs), update(-batch.next_obs)
    assert furthest(new, other) == 0
    assert furthest(beside(new), beside(state)) > 1e-6


def test_rates_rise_and_fall_in_cycles():
    """Per iteration: from the floor up in two, down along a cosine in four, and again; the policy's after its wait."""
    keys = jax.random.split(KEY, 3)
    algorithm = MAKE["ppo"](
        **ONCE, target_kl=None, learning_rate=1e-3, critic_warmup=1, learning_rate_floor=0.2, learning_rate_warmup=2,
        learning_rate_cycle=6,
    )  # fmt: skip
    state = started(algorithm, keys[0])
    batch = rollout(algorithm, state, keys[1])

    def one(state, key):
        after, metrics = algorithm.update(state, batch, key)
        policy, value = (
            jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), *models)
            for models in ((after.policy, state.policy), (after.value, state.value))
        )
        return after, (metrics["learning_rate"], policy.log_std, value.mlp.layers[-1].bias)

    found = jax.jit(lambda s: jax.lax.scan(one, s, jax.random.split(keys[2], 8)))(state)[1]
    cosine = (1 + np.cos(np.pi * np.arange(4) / 4)) / 2
    factors = 0.2 + 0.8 * np.array([0, 0.5, *cosine, 0, 0.5])
    rates, policy, value = (np.asarray(column) for column in found)
    np.testing.assert_allclose(rates, 1e-3 * factors[[0, 0, 1, 2, 3, 4, 5, 6]], rtol=1e-6)
    assert policy[0] == 0
    # Adam's first step is the rate in every direction.
    np.testing.assert_allclose([policy[1], value[0]], [0.2e-3, 0.2e-3], rtol=1e-3)
    assert np.all(value[1:6] / factors[1:6] < 1.2e-3)
    with pytest.raises(ValueError, match="learning_rate_warmup must be an integer from 0 to 5, got 6"):
        ppo(learning_rate_warmup=6, learning_rate_cycle=6)


def test_advantages_beyond_quantiles_and_bounds(x64):
    """The same gradient as of rewards that make the bounded advantages themselves."""
    settings = {"normalise_advantages": "none", "value_coefficient": 0.0, "target_kl": None}
    plain = MAKE["ppo"](**ONCE, **settings)
    within = MAKE["ppo"](**ONCE, **settings, advantage_low_quantile=0.1, advantage_high_quantile=0.6)
    bounded = MAKE["ppo"](**ONCE, **settings, advantage_clip=0.5)
    keys = jax.random.split(KEY, 3)
    state = started(plain, keys[0])
    batch = rollout(plain, state, keys[1])
    yes = jnp.ones_like(batch.terminated)
    advantage = np.asarray(jax.random.normal(keys[2], yes.shape))

    def earned(advantage):  # in episodes of one step
        fields = lambda b: (b.reward, b.terminated, b.truncated)
        return eqx.tree_at(fields, batch, (batch.extras["value"] + advantage, yes, ~yes))

    def gradient(algorithm):
        update = jax.jit(algorithm.update)
        return lambda a: gradient_of(update(state, earned(jnp.asarray(a)), keys[2])[0]).policy

    unbounded = gradient(plain)
    for algorithm, ends in ((within, np.quantile(advantage, [0.1, 0.6])), (bounded, (-0.5, 0.5))):
        assert advantage.min() < ends[0] - 0.2 and ends[1] + 0.2 < advantage.max()
        ours = gradient(algorithm)(advantage)
        for left, right in zip(leaves(ours), leaves(unbounded(np.clip(advantage, *ends))), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-12)
        assert furthest(ours, unbounded(advantage)) > 1e-3
    with pytest.raises(ValueError, match="advantage_low_quantile must not exceed advantage_high_quantile"):
        ppo(advantage_low_quantile=0.9, advantage_high_quantile=0.1)


def test_the_squash_of_the_environment_does_not_enter_the_loss():
    field = Field(2, 3, schedule=RectifiedFlow(), prediction="velocity", hidden=(8,), key=KEY)
    ratio = matched_ratio(flow_matching_log_ratio(matching(perturb(RectifiedFlow())), draws=4))
    by = {}
    for name, squash in {"tanh": jnp.tanh, "none": lambda x: x}.items():
        by[name] = explore_matched(ode(steps=3), ratio, squash=squash)(field, OBS, jax.random.key(1))
    np.testing.assert_array_equal(by["tanh"][1]["log_prob"], by["none"][1]["log_prob"])
    np.testing.assert_array_equal(by["tanh"][0], jnp.tanh(by["none"][0]))
    np.testing.assert_array_equal(by["tanh"][1]["unsquashed"], by["none"][0])
    algorithm = fpo(hidden=(8,), value_hidden=(8,), draws=2, sampler_steps=2)
    state = started(algorithm, KEY)
    for mode in ("explore", "evaluate"):
        assert np.all(np.abs(algorithm.act(state, OBS[: SPEC.obs_size], KEY, mode)[0]) < 1)


def test_bounded_advantages():
    a = jnp.array([-2.0, 0.0, 3.0])
    np.testing.assert_array_equal(bounded_advantage(a, "positive"), [0, 0, 3])
    np.testing.assert_allclose(bounded_advantage(a, "softplus"), np.log1p(np.exp(a)), rtol=1e-6)
    np.testing.assert_array_equal(bounded_advantage(a), a)


@pytest.mark.parametrize("average", ["mean_then_exp", "exp_then_mean"])
def test_one_ratio_for_all_draws_of_fpopp(average, x64):
    """At unchanged parameters its gradient is that of the ratios of the draws; what differs is where it leads."""
    keys, settings = jax.random.split(KEY, 3), {**ONCE, "surrogate": "ppo"}
    several = MAKE["fpopp"](**settings)
    state = started(several, keys[0])
    batch = rollout(several, state, keys[1])
    one = MAKE["fpopp"](**settings, average=average)
    stored = jax.vmap(lambda obs: one.act(state, obs, KEY, "explore")[1]["log_prob"])(batch.obs[0])
    assert stored.shape == ((4,) if average == "mean_then_exp" else (4, 2))
    if average == "mean_then_exp":
        log_prob = jnp.mean(batch.extras["log_prob"], axis=-1)
        single = eqx.tree_at(lambda b: b.extras["log_prob"], batch, log_prob)
    else:
        single = batch
    pairs = [(several, batch), (one, single)]
    ours, theirs = (gradient_of(jax.jit(a.update)(state, b, keys[2])[0]).policy for a, b in pairs)
    for left, right in zip(leaves(ours), leaves(theirs), strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-11)


def test_average_of_fpopp():
    """Before `ema_after` evaluation has the weights of now, at it the average is reset, then it decays."""
    algorithm = MAKE["fpopp"](**ONCE, ema_after=2, ema_decay=0.75, learning_rate=0.01)
    keys = jax.random.split(KEY, 6)
    state = started(algorithm, keys[0])
    assert furthest(state.deployed, state.policy) == 0
    batch, update, average = rollout(algorithm, state, keys[1]), jax.jit(algorithm.update), state.deployed
    for count in range(1, 5):
        state, _ = update(state, batch, keys[count + 1])
        now = state.policy
        decayed = lambda old, new: 0.75 * old + 0.25 * new
        average = now if count <= 2 else jax.tree.map(decayed, average, now)
        assert furthest(state.deployed, average) < 1e-6
    assert furthest(average, now) > 1e-4
    zero = algorithm.act(state, jnp.zeros(SPEC.obs_size), keys[0], "zero")[0]
    again = algorithm.act(state, jnp.zeros(SPEC.obs_size), keys[1], "zero")[0]
    np.testing.assert_array_equal(zero, again)  # no noise of any kind
    steps = ode(steps=2)(average, jnp.zeros(SPEC.obs_size), keys[0], start=jnp.zeros(SPEC.action_size))
    np.testing.assert_allclose(zero, steps, atol=1e-5)


def test_exact_noise_recovers_the_action(x64):
    schedule = DiscreteVP(cosine_betas(10))
    action, eps = jnp.array([0.9, -0.4]), jnp.array([1.3, -2.0])
    for k in range(1, 11):
        t = jnp.asarray(k / 10)
        x = schedule.alpha(t) * action + schedule.sigma(t) * eps
        exact = FunctionField(lambda *_: eps, schedule=schedule, prediction="noise", action_size=2)
        np.testing.assert_allclose(predict_pair(exact, x, t, OBS, clip=1.0)[0], action, atol=1e-5)


@pytest.mark.parametrize(
    ("steps", "mean", "std", "expected"),
    [(20, 0.3, 0.15, 0.108), (20, 0.0, 0.2, 0.153), (100, 0.3, 0.15, 0.136), (100, 0.0, 0.2, 0.185)],
)
def test_moments_of_dppos_chain_with_the_exact_score(steps, mean, std, expected):
    schedule = DiscreteVP(cosine_betas(steps))

    def noise(x, t, obs):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        return sigma * (x - alpha * mean) / (alpha**2 * std**2 + sigma**2)

    field = FunctionField(noise, schedule=schedule, prediction="noise", action_size=1)
    sampler = ddpm(steps=steps, variance="posterior", final_noise=True)
    n = 100_000  # standard error of the mean and of the deviation below .0007
    x = jax.jit(jax.vmap(lambda key: sampler(field, OBS, key)))(jax.random.split(KEY, n))[:, 0]
    np.testing.assert_allclose([jnp.mean(x), jnp.std(x)], [mean, expected], atol=0.002)


def chain_example(chain, **extras):
    no = jnp.asarray(False)
    return Transition(OBS, chain[-1], jnp.zeros(()), OBS, no, no, {"chain": chain, **extras})


def test_summed_surrogate_is_reinforce_on_the_chain(x64):
    """At ratio 1, sum reduction and no discount: steps * grad surrogate = A grad log-likelihood of the chain."""
    steps = 4
    field = Field(2, 3, schedule=DiscreteVP(cosine_betas(steps)), prediction="noise", hidden=(8,), key=KEY)
    sampler = ddpm(steps=steps, variance="posterior", min_std=0.1, final_noise=True)
    likelihood = chain_log_likelihood(sampler, bounds=None, reduction="sum")
    chain = sampler.chain(field, OBS, jax.random.key(1))
    stored = likelihood(field, chain_example(chain), KEY)
    example = chain_example(chain, advantage=jnp.asarray(-1.3), log_prob=stored)

    def density(f):
        total = 0.0
        for j in range(steps):
            mean, std = sampler.kernel(f, chain[j], OBS, j)
            total += jnp.sum(norm.logpdf(chain[j + 1], mean, std))
        return total

    surrogate = lambda f: -steps * clipped(log_ratio(likelihood), eps=0.1)(f, example, KEY)[0]
    ours, theirs = (eqx.filter_jit(eqx.filter_grad(of))(field) for of in (surrogate, density))
    for left, right in zip(leaves(ours), leaves(theirs), strict=True):
        np.testing.assert_allclose(left, -1.3 * right, rtol=1e-9, atol=1e-11)


def test_frozen_steps_stay_and_cloning_pulls_back(x64):
    field = Field(
        SPEC.obs_size,
        SPEC.action_size,
        schedule=DiscreteVP(cosine_betas(4)),
        prediction="noise",
        hidden=(8,),
        key=KEY,
    )
    make = lambda **kwargs: dppo(
        pretrained=field, sampler_steps=4, trained_steps=2, value_hidden=(8,), log_prob_low=-1e3, log_prob_high=1e3,
        max_grad_norm=1e9, **ONCE, **kwargs,
    )  # fmt: skip
    algorithm, keys = make(cloning_coefficient=0.7), jax.random.split(KEY, 3)
    state = started(algorithm, keys[0])
    batch = rollout(algorithm, state, keys[1])
    after, _ = jax.jit(algorithm.update)(state, batch, keys[2])
    assert furthest(after.pretrained, field) == 0
    assert furthest(after.policy, field) > 1e-6
    plain, _ = jax.jit(make().update)(make().init(keys[0], SPEC), batch, keys[2])
    flat = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), batch)
    sampler = ddpm(steps=4, variance="posterior", min_std=0.1, final_noise=True)

    def clone(f):
        def one(obs, chain):
            kernels = [sampler.kernel(f, chain[j], obs, j + 2) for j in range(2)]
            return jnp.mean(jnp.stack([norm.logpdf(chain[j + 1], *kernels[j]) for j in range(2)]))

        return -jnp.mean(jax.vmap(one)(flat.obs, flat.extras["frozen"]))

    expected = eqx.filter_jit(eqx.filter_grad(clone))(field)
    both = (gradient_of(s).policy for s in (after, plain))
    for left, right, wanted in zip(*map(leaves, both), leaves(expected), strict=True):
        np.testing.assert_allclose(left - right, 0.7 * wanted, rtol=1e-7, atol=1e-10)


def two_point(x, shift=0.0, std=0.3):
    """Density of a = a0 + shift + std n, a0 = +-1."""
    return 0.5 * (norm.pdf(x, 1 + shift, std) + norm.pdf(x, -1 + shift, std))


def test_entropy_of_the_marginal_and_of_the_conditional(x64):
    x = jnp.linspace(-4, 4, 20_001)
    p = two_point(x)
    marginal = float(integrate.simpson(np.asarray(-p * jnp.log(jnp.maximum(p, 1e-300))), x=np.asarray(x)))
    policy = ResidualGaussian(1, 1, hidden=(4,), initial_std=0.3, final_scale=0, key=KEY)
    conditional = float(policy.entropy())
    np.testing.assert_allclose([marginal, conditional], [0.906872, 0.214966], atol=1e-6)
    np.testing.assert_allclose(marginal - conditional, 0.691906, atol=1e-6)
    assert 0 < marginal - conditional < np.log(2)


def test_conditional_kl_is_above_the_marginal(x64):
    x = jnp.linspace(-5, 5, 20_001)
    for shift in (0.05, 0.3, 1.0):
        p, q = two_point(x), two_point(x, shift)
        marginal = integrate.simpson(np.asarray(p * (jnp.log(p) - jnp.log(q))), x=np.asarray(x))
        std = jnp.log(jnp.array([0.3]))
        conditional = float(gaussian_kl(jnp.zeros(1), std, jnp.array([shift]), std))
        assert 0 < marginal <= conditional + 1e-9


@pytest.mark.parametrize(("sigma", "expected"), [(0.3, 1.02302), (1.0, 1.33333), (1.5, 2.28571)])
def test_stationary_variance_of_the_regularised_residual(sigma, expected, x64):
    """mu = -Sigma a / 2, the minimiser of the score term, fitted without error again and again."""
    step = lambda _, v: (1 - sigma**2 / 2) ** 2 * v + sigma**2
    np.testing.assert_allclose(jax.lax.fori_loop(0, 2_000, step, 5.0), expected, atol=1e-5)
    np.testing.assert_allclose(1 / (1 - sigma**2 / 4), expected, atol=1e-5)
    keys = jax.random.split(KEY, 300)
    move = lambda a, key: ((1 - sigma**2 / 2) * a + sigma * jax.random.normal(key, a.shape), None)
    cloud = jax.lax.scan(move, jax.random.normal(jax.random.key(1), (20_000,)), keys)[0]
    np.testing.assert_allclose(jnp.var(cloud), expected, rtol=4 * np.sqrt(2 / 20_000))


def test_flow_fit_keeps_both_modes():
    """The distillation of DP-CPPO on +-0.7: both modes, half of the samples each."""
    field = Field(
        1, 1, schedule=RectifiedFlow(), prediction="velocity", hidden=(64, 64), embedding="cos_sin", key=KEY
    )
    loss, n = matching(perturb(RectifiedFlow())), 512
    no_act = lambda parts: lambda obs, key: obs
    cloning = learning.algorithm(
        "cloning",
        "offline",
        explore=no_act,
        evaluate=no_act,
        flow=learning.trained(lambda key, spec: field, lambda s: loss, adam(3e-3)),
        average=learning.average("flow", 1 - 0.99),
    )

    def body(state, key):
        sign_key, noise_key, key = jax.random.split(key, 3)
        action = 0.7 * jax.random.rademacher(sign_key, (n, 1), float) + 0.1 * jax.random.normal(
            noise_key, (n, 1)
        )
        no = jnp.zeros(n, bool)
        batch = Transition(jnp.zeros((n, 1)), action, jnp.zeros(n), jnp.zeros((n, 1)), no, no)
        return cloning.update(state, batch, key)[0], None

    fit = jax.jit(lambda state, keys: jax.lax.scan(body, state, keys)[0])
    state = fit(cloning.init(KEY, None), jax.random.split(KEY, 1_000))
    draw = jax.jit(jax.vmap(lambda key: ode(steps=16)(state.average, jnp.zeros(1), key)))
    x = np.asarray(draw(jax.random.split(jax.random.key(2), 4_000)))[:, 0]
    assert abs(np.mean(x > 0) - 0.5) < 0.05
    assert np.mean(np.abs(np.abs(x) - 0.7) < 0.35) > 0.9


def test_evaluation_modes_of_dp_cppo(x64):
    algorithm = MAKE["dp_cppo"]()
    state = started(algorithm, KEY)
    obs = jnp.ones(SPEC.obs_size)
    keys = jax.random.split(jax.random.key(1), 4_000)
    act = lambda mode: jax.jit(jax.vmap(lambda key: algorithm.act(state, obs, key, mode)[0]))(keys)
    base, mean, noisy = (act(mode) for mode in ("flow", "flow+residual", "flow+residual+noise"))
    policy = state.policy
    np.testing.assert_allclose(mean, jax.vmap(policy.mean, (None, 0))(obs, base), atol=1e-12)
    noise = (noisy - mean) / jnp.exp(policy.log_std)[None]
    assert np.all(np.abs(noise.mean(0)) < 4 / np.sqrt(4_000))
    assert np.all(np.abs(noise.std(0) - 1) < 4 / np.sqrt(8_000))
    assert abs(np.corrcoef(noise[:, 0], mean[:, 0])[0, 1]) < 4 / np.sqrt(4_000)
    np.testing.assert_array_equal(act("evaluate"), mean)
    np.testing.assert_array_equal(act("improved"), noisy)  # nothing has been fitted yet


def test_zero_start_of_genpo():
    algorithm = MAKE["genpo"](start="zero")
    state = started(algorithm, KEY)
    obs, keys = jnp.ones(SPEC.obs_size), jax.random.split(KEY, 3)
    actions = [algorithm.act(state, obs, key, mode)[0] for key in keys for mode in ("evaluate", "zero")]
    assert all(np.array_equal(actions[0], action) for action in actions)
    assert not np.array_equal(*(algorithm.act(state, obs, key, "random")[0] for key in keys[:2]))


@pytest.mark.parametrize("name", MAKE)
def test_a_minibatch_is_the_mean_of_its_examples_in_any_order(name, x64):
    """The gradient of a whole rollout is the mean of those of its halves, and of the rollout turned around."""
    algorithm = MAKE[name](**ONCE, normalise_advantages="none")
    keys = jax.random.split(KEY, 3)
    state = started(algorithm, keys[0])
    batch, update = rollout(algorithm, state, keys[1]), jax.jit(algorithm.update)
    gradient = lambda part: gradient_of(update(state, part, keys[2])[0])
    pick = lambda index: jax.tree.map(lambda leaf: leaf[:, index], batch)  # environments
    whole, turned = gradient(batch), gradient(pick(jnp.arange(4)[::-1]))
    halves = [gradient(pick(jnp.arange(2) + 2 * i)) for i in range(2)]
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *halves)
    for other in (turned, mean):
        for left, right in zip(leaves(whole), leaves(other), strict=True):
            np.testing.assert_allclose(left, right, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("name", MAKE)
def test_the_key_decides_the_action(name):
    algorithm = MAKE[name]()
    state = started(algorithm, KEY)
    act = jax.jit(lambda key: algorithm.act(state, jnp.zeros(SPEC.obs_size), key, "explore")[0])
    one, same, other = (act(jax.random.key(i)) for i in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert np.all(one != other)


@pytest.mark.parametrize(
    ("name", "metric"), [("fpo", "policy/kl"), ("genpo", "policy/ppo/kl_k1"), ("dppo", "policy/ppo/kl")]
)
def test_the_rate_reads_the_estimate_among_the_metrics(name, metric):
    algorithm = MAKE[name](target_kl=0.01, epochs=3, minibatches=2)
    state = started(algorithm, KEY)
    _, metrics = jax.jit(algorithm.update)(state, rollout(algorithm, state, KEY), KEY)
    assert metrics["kl"] == metrics[metric] != 0


@pytest.mark.parametrize("setting", ["target_kl", "stop_kl"])
def test_a_kl_that_the_loss_does_not_measure_is_named(setting):
    loss = lambda model, example, key: (jnp.zeros(()), {"loss": jnp.zeros(())})
    policy = lambda key, spec: jnp.zeros(())
    algorithm = proximal(
        name="own",
        make_policy=policy,
        explore=lambda parts: lambda obs, key: (jnp.zeros(SPEC.action_size), {"log_prob": jnp.zeros(())}),
        evaluate=lambda parts: lambda obs, key: jnp.zeros(SPEC.action_size),
        policy_loss=loss,
        kl="other",
        value_hidden=(4,),
        **{setting: 0.01},
    )
    state = started(algorithm, KEY)
    with pytest.raises(ValueError, match="kl must be a function or a metric of policy_loss, got 'other'"):
        algorithm.update(state, rollout(algorithm, state, KEY), KEY)


def test_a_huge_ratio_has_a_finite_gradient():
    """min(inf A, 1.2 A) = 1.2 A is flat, but the gradient of the branch not taken is 0 * inf."""
    slope = jax.grad(lambda log: ppo_clip(log, jnp.asarray(1.0), 0.2))
    assert [slope(80.0), slope(200.0)] == [0, 0]


def test_bounds_of_the_log_density_are_ordered():
    with pytest.raises(ValueError):
        dppo(log_prob_low=3.0, log_prob_high=2.0)


def test_presets_beside_their_tables():
    flowrl = preset("fpo", "isaaclab/Isaac-Ant-v0", "flowrl")
    assert (flowrl["activation"], flowrl["value_activation"]) == ("silu", "elu")  # FlowRL table 4
    for task in ("WalkerRun", "AcrobotSwingup", "AcrobotSwingupSparse", "SwimmerSwimmer6"):
        assert resolve("ppo", f"playground/{task}", choose="playground")["steps"] == 100_000_000
    scratch = preset("dppo", "brax/hopper", "dppo")
    assert (scratch["hidden"], scratch["activation"], scratch["residual"]) == ((512, 512, 512), "relu", True)
    assert (scratch["value_activation"], scratch["value_residual"]) == ("mish", True)
