"""The online matching recipes: what each update does, and every schedule, prediction and sampler under them."""

import inspect
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy._types import Transition
from dpolicy.algorithms import ALGORITHMS, dps, fpmd, gempo, idem, maxentdp, qvpo, sdac
from dpolicy.audit import objective
from dpolicy.blocks import (
    acting,
    actor_critic,
    critic_function,
    field_policy,
    mirror_descent,
)
from dpolicy.envs import MultiGoal
from dpolicy.learning import Parts, Statistics, Tuned, stage_key
from dpolicy.losses import boltzmann, chain, matching, perturb, reverse_sample, start
from dpolicy.optimisers import Learner
from dpolicy.samplers import mean_flow, ode

SPEC = MultiGoal().spec
NETS = {"hidden": (8,), "critic_hidden": (8,), "sampler_steps": 2}
ENCODED = {**NETS, "obs_hidden": (5,)}
SIZES = {
    "idem": {"samples": 4},
    "dps": {"samples": 4},
    "maxentdp": {"samples": 4, "density_steps": 2, "density_draws": 2},
    "qvpo": {"candidates": 4, "uniform_candidates": 2},
    "dpmd": {"candidates": 2},
    "fpmd": {"candidates": 2},
    "gempo": {"candidates": 4, "target_kl": 1.0},
}
FPMD = {"hidden": (8,), "critic_hidden": (8,), "candidates": 2, "output_scale": 0.1}
FRAMES = [  # schedule, prediction, sampler
    ("rectified_flow", "velocity", "euler"),
    ("rectified_flow", "data", "heun"),
    ("trigonometric", "noise", "ddim"),
    ("linear", "velocity", "ddpm"),
    ("variance_exploding", "noise", "sde"),
    ("cosine", "score", "ddpm_posterior"),
]


def experience(key, size=6):
    keys = jax.random.split(key, 4)
    ends = jnp.arange(size) % 3
    return Transition(
        jax.random.normal(keys[0], (size, SPEC.obs_size)),
        jnp.tanh(jax.random.normal(keys[1], (size, SPEC.action_size))),
        jax.random.normal(keys[2], (size,)),
        jax.random.normal(keys[3], (size, SPEC.obs_size)),
        ends == 1,
        ends == 2,
    )


def one_update(algorithm, key):
    keys = jax.random.split(key, 3)
    return algorithm.update(algorithm.init(keys[1], SPEC), experience(keys[0]), keys[2])


def update_and_act(algorithm, key):
    new, metrics = one_update(algorithm, key)
    obs = jnp.zeros(SPEC.obs_size)
    actions = [algorithm.act(new, obs, key, mode)[0] for mode in algorithm.modes]
    return new, metrics, actions


@pytest.mark.parametrize("name", SIZES)
def test_every_frame(name):
    """Each recipe takes each schedule, prediction and sampler; gradients of Q as targets of a flow stay finite."""
    for index, (schedule, prediction, sampler) in enumerate(FRAMES):
        frame = {"schedule": schedule, "prediction": prediction, "sampler": sampler}
        nets = NETS if index else ENCODED
        algorithm = ALGORITHMS[name].recipe(**nets, **SIZES[name], **frame, evaluation_candidates=2)
        run = partial(update_and_act, algorithm)
        shapes = jax.eval_shape(run, jax.random.key(0))
        assert [action.shape for action in shapes[-1]] == [(SPEC.action_size,)] * 2
        if index == 0 and name in ("idem", "dps"):
            for leaf in jax.tree.leaves(eqx.filter(jax.jit(run)(jax.random.key(0)), eqx.is_inexact_array)):
                assert np.isfinite(leaf).all()


def test_every_recipe_of_a_field_has_an_encoder_of_the_observation():
    for name, entry in ALGORITHMS.items():
        if name == "dime":  # whose chain has a network of its own
            continue
        parameters = inspect.signature(entry.recipe).parameters
        assert ("obs_hidden" in parameters) == ("sampler" in parameters or "sampler_steps" in parameters), (
            name
        )
    state = jax.eval_shape(lambda: sdac(**ENCODED).init(jax.random.key(0), SPEC))
    assert state.actor.encoder.layers[0].weights[0].shape == (5, SPEC.obs_size)


def compare(left, right, **tolerance):
    for a, b in zip(*map(jax.tree.leaves, (left, right)), strict=True):
        np.testing.assert_allclose(a, b, **tolerance)


def sdac_of_targets(**nets):
    """SDAC whose weights come from the target critics."""
    policy = field_policy(hidden=nets["hidden"], sampler_steps=nets["sampler_steps"])
    return actor_critic(
        name="sdac",
        make_actor=policy.make,
        explore=policy.act,
        evaluate=policy.act,
        actor_loss=lambda q, _: matching(
            chain(perturb(policy.schedule), reverse_sample(policy.schedule, 4), boltzmann(q, 0.05))
        ),
        critic_hidden=nets["critic_hidden"],
        actor_critic_values="target_min",
        critic_first=False,
    )


def test_without_its_entropy_maxentdp_is_sdac(x64, getkey):
    key = getkey()
    ours = maxentdp(**NETS, samples=4, soft=False)

    @jax.jit
    def run(key):
        return [one_update(algorithm, key)[0] for algorithm in (ours, sdac_of_targets(**NETS))]

    first, second = run(key)
    compare(first.critic, second.critic, rtol=1e-12)
    # Adam divides a gradient by its own size, so parameters are compared after it and moments before.
    compare(first["actor"].opt_state, second["actor"].opt_state, rtol=1e-6, atol=1e-14)


def test_mirror_descent_weighs_the_critics_next_action(getkey):
    """w = exp(clip((Q(s', a') - M) / R, -3, 3) / alpha), in that order of operations."""
    policy = field_policy(hidden=(8,), sampler_steps=2)

    def regression(links):
        def loss(field, example, key):
            match = links(example, start(example), key)
            return jnp.sum(match.weight), {"weight": match.weight[0], "action": match.action[0, 0]}

        return loss

    algorithm = mirror_descent(
        name="mirror",
        policy=policy,
        evaluate=policy.act,
        critic_hidden=(4,),
        learning_rate=1e-3,
        regression=regression,
    )
    numbers = {"statistics": Statistics(jnp.asarray(10.0), jnp.asarray(2.0))}
    state = Parts(algorithm.init(getkey(), SPEC), numbers, noise=Tuned(Learner(jnp.log(2.0), ())))
    _, loss = objective(algorithm, state, lambda obs, action: 10 * obs[0] + action[0])
    batch = experience(getkey(), 1)
    example = jax.tree.map(lambda leaf: leaf[0], batch)
    next_obs, next_action = example.next_obs.at[0].set(1.0), example.action.at[0].set(1.0)
    example = Transition(
        example.obs,
        example.action,
        example.reward,
        next_obs,
        example.terminated,
        example.truncated,
        {"next_action": next_action},
    )
    _, metrics = loss(None, example, getkey())
    np.testing.assert_allclose(metrics["weight"], np.exp(0.5 / 2), rtol=1e-5)
    assert metrics["action"] == 1.0


def test_one_step_evaluation_of_flows(getkey):
    """Evaluation is deterministic: the one-step map from zero, under either variant; exploring is not."""
    for variant, sampler in (("rectified_flow", ode), ("mean_flow", mean_flow)):
        algorithm = fpmd(**FPMD, variant=variant)

        @jax.jit
        def run(key, algorithm=algorithm):
            keys = jax.random.split(key, 4)
            batch, state = experience(keys[0]), algorithm.init(keys[1], SPEC)
            step = lambda state, key: algorithm.update(state, batch, key)
            state, metrics = jax.lax.scan(step, state, jax.random.split(keys[2], 2))
            act = lambda mode: jax.vmap(lambda key: algorithm.act(state, batch.obs[0], key, mode)[0])
            draws = jax.random.split(keys[3], 3)
            return state, metrics, batch.obs[0], act("explore")(draws), act("evaluate")(draws)

        state, metrics, obs, explore, evaluate = run(getkey())
        assert all(np.isfinite(value).all() for value in metrics.values())
        np.testing.assert_array_equal(evaluate, np.broadcast_to(evaluate[0], evaluate.shape))
        assert len(np.unique(np.asarray(explore)[:, 0])) == 3
        assert np.abs(explore).max() <= 1  # noise is added before the best is chosen, and clipped
        one_step = sampler(steps=1, clip=1.0, initial="zero")
        expected = one_step(state.average, obs, jax.random.key(0))
        np.testing.assert_allclose(evaluate[0], expected, rtol=1e-5, atol=1e-6)


def test_which_actor_and_critic_a_policy_sees():
    def policy(actor, q, obs, key):
        value = q(obs, obs)
        return actor * obs * value, value

    act = acting(policy, 3.0, lambda obs, action: jnp.full((), 7.0))
    np.testing.assert_array_equal(act(jnp.ones(2), jax.random.key(0)), [21.0, 21.0])


def test_the_backup_of_qvpo(getkey):
    """The best of four samples of the averaged actor, under the target critics."""
    algorithm = qvpo(**NETS, candidates=4, discount=0.9, critics=2)
    key = getkey()
    state = algorithm.init(getkey(), SPEC)
    # An average and targets that differ from what is trained.
    halved = lambda tree: jax.tree.map(lambda leaf: 0.5 * leaf if eqx.is_inexact_array(leaf) else leaf, tree)
    state = Parts(state, average=halved(state.actor), target=halved(state.critic))
    batch = experience(getkey())
    policy = field_policy(hidden=(8,), sampler_steps=2, sampler="ddpm_posterior").best(4)

    @jax.jit
    def both(state):
        _, metrics = algorithm.update(state, batch, key)
        keys = jax.random.split(stage_key(key, "critic"), batch.reward.shape[0])
        target = critic_function(state.target)
        act = lambda obs, key: policy(state.average, target, obs, key)[0]
        following = jax.vmap(target)(batch.next_obs, jax.vmap(act)(batch.next_obs, keys))
        goal = batch.reward + 0.9 * jnp.where(batch.terminated, 0, following)
        values = jax.vmap(state.critic)(batch.obs, batch.action)
        return metrics["critic/loss"], jnp.mean((values - goal[:, None]) ** 2)

    np.testing.assert_allclose(*both(state), rtol=1e-5)


@pytest.mark.parametrize("weight", ["exponential", "linear", "square"])
def test_the_reference_of_gempo(getkey, weight):
    algorithm = gempo(**NETS, candidates=4, weight=weight, reference_interval=2, target_kl=1.0)

    update = jax.jit(algorithm.update)
    states, kls = [algorithm.init(getkey(), SPEC)], []
    for _ in range(2):
        state, metrics = update(states[-1], experience(getkey()), getkey())
        states.append(state)
        kls.append(metrics["actor/weight_kl"])
    leaves = lambda tree: np.concatenate(
        [np.ravel(x) for x in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]
    )
    first, second, third = (leaves(s.reference) for s in states)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(third, leaves(states[2].actor))
    # Weights too even or too uneven move the temperature down or up.
    change = np.diff([float(s.temperature) for s in states])[0]
    assert np.sign(change) == np.sign(float(kls[0]) - 1.0)


def test_bad_arguments():
    for make, message in (
        (
            lambda: fpmd(variant="meanflow"),
            "variant must be one of rectified_flow, mean_flow; got 'meanflow'",
        ),
        (lambda: fpmd(equal_share=0.5), "equal_share needs variant mean_flow"),
        (lambda: fpmd(variant="mean_flow", prediction="noise"), "prediction must be velocity for a field of"),
        (lambda: fpmd(variant="mean_flow", sampler="heun"), "sampler must be euler for a field of averages"),
        (lambda: fpmd(variant="mean_flow", schedule="discrete_cosine"), "schedule must reach the action for"),
        (lambda: idem(samples=1), "samples must be an integer of at least 2"),
        (lambda: idem(proposal="uniform"), "proposal must be one of truncated, gaussian, clipped"),
        (lambda: dps(anneal_updates=0), "anneal_updates must be a finite number"),
        (lambda: gempo(weight="cubic"), "weight must be one of exponential, linear, square"),
        (lambda: qvpo(candidates=1), "candidates must be an integer of at least 2"),
    ):
        with pytest.raises(ValueError, match=message):
            make()
