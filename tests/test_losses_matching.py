"""The matching record, chains, and the regression."""

from dataclasses import replace
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from dpolicy._types import Transition
from dpolicy.fields import CosineVP, DiscreteVP, FunctionField, LinearVP, RectifiedFlow, cosine_betas
from dpolicy.losses import (
    Match,
    Target,
    advantage,
    batched,
    best,
    boltzmann,
    candidates,
    chain,
    effective_sample_size,
    grid_times,
    logit_normal_times,
    matching,
    mix,
    perturb,
    posterior_mean,
    power_times,
    reverse_sample,
    smoothed_score,
    start,
    uniform,
    uniform_times,
)


def transition(action, obs=(0.0,), **extras):
    action, obs = jnp.atleast_1d(jnp.asarray(action, float)), jnp.asarray(obs, float)
    end = jnp.zeros((), bool)
    return Transition(obs, action, jnp.zeros(()), obs, end, end, extras)


def at(schedule, t, noise):
    """The example's action noised at a chosen (t, noise)."""

    def transform(example, match, key):
        time, eps = jnp.atleast_1d(jnp.asarray(t, float)), jnp.asarray(noise, float)[None]
        x = schedule.alpha(time)[:, None] * match.action + schedule.sigma(time)[:, None] * eps
        return Match(match.action, x, time, Target(match.action, eps), match.weight, schedule, 1)

    return transform


class Affine(eqx.Module):
    """scale x + shift: a field with two parameters that counts nothing and hides nothing."""

    scale: jax.Array
    shift: jax.Array
    schedule: object
    prediction: str = eqx.field(static=True)
    action_size: int = eqx.field(static=True, default=1)

    def __call__(self, x, t, obs):
        return self.scale * x + self.shift


def constant_field(value, schedule, prediction):
    return FunctionField(
        lambda x, t, obs: jnp.full_like(x, value), schedule=schedule, prediction=prediction, action_size=1
    )


def test_one_rectified_flow_pair(getkey):
    """a = .5, eps = -1, t = .4, v = .3: error 1.8 in velocity, (1 - t) of it in noise, t of it in the action."""
    schedule = RectifiedFlow()
    field, example = constant_field(0.3, schedule, "velocity"), transition(0.5)
    for compare, expected in ((None, 3.24), ("velocity", 3.24), ("noise", 1.1664), ("data", 0.5184)):
        loss = matching(at(schedule, 0.4, [-1.0]), compare=compare)
        assert loss(field, example, getkey())[0] == pytest.approx(expected, rel=1e-5)


def test_reductions(getkey):
    schedule, noise = RectifiedFlow(), [0.3, -1.0, 0.2, 0.7]
    field = Affine(jnp.asarray(0.5), jnp.asarray(0.1), schedule, "velocity", 4)
    example = transition([0.1, -0.4, 0.9, 0.0])
    mean, total, root = (
        matching(at(schedule, 0.3, noise), reduction=how)(field, example, getkey())[0]
        for how in ("mean", "sum", "sqrt")
    )
    np.testing.assert_allclose([total / 4, total / 2], [mean, root], rtol=1e-6)


def test_capped_errors_lose_their_gradient(getkey):
    schedule = RectifiedFlow()
    field = Affine(jnp.asarray(0.0), jnp.asarray(0.0), schedule, "velocity", 2)
    loss = matching(at(schedule, 0.3, [2.0, 0.5]), cap=3.0)  # errors -2 and -0.5
    value, gradient = eqx.filter_value_and_grad(lambda f: loss(f, transition([0.0, 0.0]), getkey())[0])(field)
    assert value == pytest.approx((3 + 0.25) / 2)
    assert gradient.shift == pytest.approx(-0.5)


def test_beyond_huber_an_error_pulls_no_harder(getkey):
    schedule = RectifiedFlow()
    field = Affine(jnp.asarray(0.0), jnp.asarray(0.0), schedule, "velocity", 2)
    loss = matching(at(schedule, 0.3, [2.0, 0.5]), huber=1.0)  # errors -2 and -0.5
    value, gradient = eqx.filter_value_and_grad(lambda f: loss(f, transition([0.0, 0.0]), getkey())[0])(field)
    assert value == pytest.approx((1 * (2 * 2 - 1) + 0.25) / 2)
    assert gradient.shift == pytest.approx((-2 * 1.0 - 2 * 0.5) / 2)


def test_noise_error_is_blind_at_pure_noise(getkey):
    schedule = RectifiedFlow()
    field = Affine(jnp.asarray(0.5), jnp.asarray(0.1), schedule, "velocity")
    loss = matching(at(schedule, 1.0, [-1.3]), compare="noise")
    value, gradient = eqx.filter_value_and_grad(lambda f: loss(f, transition(0.5), getkey())[0])(field)
    assert value == 0
    assert gradient.scale == 0
    assert gradient.shift == 0


@pytest.mark.parametrize("schedule", [RectifiedFlow(t_min=1e-3), CosineVP(), LinearVP()])
@pytest.mark.parametrize("prediction", ["noise", "score", "velocity", "data"])
def test_the_true_conditional_field_has_zero_loss(getkey, schedule, prediction):
    """With one possible action a, the exact field is known: every prediction, every schedule, loss 0."""
    a = 0.4

    def fn(x, t, obs):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        noise = (x - alpha * a) / sigma
        velocity = schedule.dalpha(t) * a + schedule.dsigma(t) * noise
        return {"noise": noise, "score": -noise / sigma, "velocity": velocity, "data": a + 0 * x}[prediction]

    field = FunctionField(fn, schedule=schedule, prediction=prediction, action_size=1)
    for compare in (None, "noise"):
        loss = matching(at(schedule, 0.6, [-0.7]), compare=compare)
        assert loss(field, transition(a), getkey())[0] < 1e-9
        wrong = loss(field, transition(a + 0.2), getkey())[0]
        assert wrong > 1e-3


@pytest.mark.parametrize("rule", ["uniform", "capped_snr", "noise_variance", lambda schedule, t: 3 * t])
def test_time_weights(getkey, rule):
    schedule = CosineVP()
    field, example = constant_field(0.3, schedule, "noise"), transition(0.5)
    for t in (0.1, 0.8):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        plain = matching(at(schedule, t, [-1.0]))(field, example, getkey())[0]
        found = matching(at(schedule, t, [-1.0]), time_weight=rule)(field, example, getkey())[0]
        capped, variance = jnp.minimum(1, alpha**2 / sigma**2), sigma**2
        factor = {"uniform": 1, "capped_snr": capped, "noise_variance": variance}.get(rule, 3 * t)
        assert found == pytest.approx(float(plain * factor), rel=1e-5)


def test_appending_a_link_reshuffles_no_other(getkey):
    schedule, key, example = CosineVP(), getkey(), transition([0.2, 0.4])
    run = eqx.filter_jit(lambda links: links(example, start(example), key))
    short, long = run(chain(perturb(schedule))), run(chain(perturb(schedule), reverse_sample(schedule, 4)))
    assert eqx.tree_equal(short.x, long.x)
    identity = run(chain())
    assert eqx.tree_equal(identity, start(example))


def test_a_bare_transform_is_a_chain_of_one(getkey):
    schedule, key = CosineVP(), getkey()
    field, example = constant_field(0.3, schedule, "noise"), transition(0.5)
    bare, chained = matching(perturb(schedule)), matching(chain(perturb(schedule)))
    assert bare(field, example, key)[0] == chained(field, example, key)[0]


def test_draws_are_averaged(getkey):
    schedule, key = CosineVP(), getkey()
    example = transition(0.5)
    match = perturb(schedule, draws=8)(example, start(example), key)
    assert match.x.shape == match.action.shape == (8, 1)
    assert len(np.unique(match.t)) == 8
    np.testing.assert_allclose(jnp.sum(match.weight), 1, rtol=1e-6)
    x = schedule.alpha(match.t)[:, None] * 0.5 + schedule.sigma(match.t)[:, None] * match.target.noise
    np.testing.assert_allclose(match.x, x, rtol=1e-6)


def test_monte_carlo_loss_is_unbiased(getkey):
    """Field 0 predicting noise: E|eps|^2 = 1 per coordinate, variance of the mean 2 / n."""
    schedule = CosineVP()
    field, example = constant_field(0.0, schedule, "noise"), transition(0.5)
    run = jax.jit(
        lambda key, n: matching(perturb(schedule, draws=n))(field, example, key)[0], static_argnums=1
    )
    for draws in (16, 64):
        values = jax.vmap(lambda key, n=draws: run(key, n))(jax.random.split(getkey(), 4000))
        assert jnp.mean(values) == pytest.approx(1, abs=4 * np.sqrt(2 / draws / 4000))
        assert jnp.var(values) == pytest.approx(2 / draws, rel=0.15)


def test_a_shared_point_is_evaluated_once(getkey):
    schedule, points = CosineVP(), []

    def fn(x, t, obs):
        points.append(x)
        return 0 * x

    field = FunctionField(fn, schedule=schedule, prediction="noise", action_size=1)
    loss = matching(
        chain(perturb(schedule, draws=3), reverse_sample(schedule, 50), boltzmann(lambda o, a: a[0], 1.0))
    )
    key, example = getkey(), transition(0.5)
    jax.make_jaxpr(lambda: loss(field, example, key))()
    assert len(points) == 1  # traced once, mapped over the three points
    links = chain(perturb(schedule, draws=3), reverse_sample(schedule, 50))
    match = jax.eval_shape(links, example, start(example), key)
    assert match.x.shape == (3, 1)
    assert match.action.shape == (150, 1)
    assert (match.groups, match.candidates) == (3, 50)


def test_sum_form_and_mean_form_have_one_gradient(getkey):
    """sum w |f - e|^2 and |f - sum w e|^2 differ by a constant, draw by draw (SDAC and MaxEntDP)."""
    schedule, key = CosineVP(), getkey()
    field = Affine(jnp.asarray(0.5), jnp.asarray(0.1), schedule, "noise", 2)
    links = perturb(schedule), reverse_sample(schedule, 64), boltzmann(lambda obs, a: -jnp.sum(a**2), 0.1)
    example = transition([0.2, -0.3])

    def gradient(*more):
        loss = matching(chain(*links, *more))
        return eqx.filter_jit(eqx.filter_grad(lambda f: loss(f, example, key)[0]))(field)

    first, second = gradient(), gradient(posterior_mean())
    np.testing.assert_allclose(first.scale, second.scale, rtol=1e-5)
    np.testing.assert_allclose(first.shift, second.shift, rtol=1e-5)


def test_nothing_in_the_chain_is_differentiated(getkey):
    schedule, key = CosineVP(), getkey()
    field, example = constant_field(0.3, schedule, "noise"), transition(0.5)

    def value(peak, temperature):
        policy = candidates(lambda obs, key: peak * jax.random.normal(key, (1,)), 4)
        weight = boltzmann(lambda obs, a: -jnp.sum((a - peak) ** 2), temperature)
        links = policy, perturb(schedule), weight
        return matching(chain(*links))(field, example, key)[0]

    assert jax.grad(value, argnums=(0, 1))(0.4, 0.3) == (0, 0)


def test_effective_sample_size():
    def of(weight, draws=1):
        size = len(weight)
        zeros = jnp.zeros((size, 1))
        weight = jnp.asarray(weight)
        return effective_sample_size(
            Match(zeros, zeros, jnp.zeros(size), Target(zeros, zeros), weight, None, size // draws)
        )

    assert of([0.25] * 4) == pytest.approx(4)
    assert of([1.0, 0.0, 0.0]) == pytest.approx(1)
    assert of([0.5, 0.5, 0.0]) == pytest.approx(2)
    assert of([0.25, 0.25, 0.25, 0.25], draws=2) == pytest.approx(2)
    assert of([0.0, 0.0]) == 0


def test_metrics_report_the_weights(getkey):
    schedule = CosineVP()
    field, example = constant_field(0.0, schedule, "noise"), transition(0.5)
    links = perturb(schedule), reverse_sample(schedule, 32)
    key = getkey()

    @jax.jit
    def metrics(slope):
        return matching(chain(*links, boltzmann(lambda obs, a: slope * a[0], 1.0)))(field, example, key)[1]

    flat, sharp = metrics(0.0), metrics(1e4)
    assert flat["ess"] == pytest.approx(32, rel=1e-4)
    assert sharp["ess"] == pytest.approx(1, abs=0.3)
    assert flat["weight_kl"] == pytest.approx(0, abs=1e-5)
    assert sharp["weight_kl"] == pytest.approx(np.log(32), abs=0.3)
    assert set(matching(perturb(schedule))(field, example, getkey())[1]) == {"loss", "target"}


def test_means_and_the_best_report_what_they_were_chosen_among(getkey):
    """The weights of SDAC's candidates are also those of MaxEntDP's mean, iDEM's score and QVPO's best action."""
    schedule = CosineVP()
    field, example, key = constant_field(0.0, schedule, "noise"), transition(0.5), getkey()
    q = lambda obs, a: 3 * a[0]
    proposals = perturb(schedule), reverse_sample(schedule, 32)
    actions = uniform(8), advantage(q)

    @jax.jit
    def metrics(key):
        chains = {
            "sdac": (*proposals, boltzmann(q, 0.5)),
            "maxentdp": (*proposals, boltzmann(q, 0.5), posterior_mean()),
            "idem": (*proposals, smoothed_score(q, 0.5)),
            "all": (*actions, perturb(schedule)),
            "qvpo": (*actions, best(q), mix((1.0, chain()), (0.1, uniform(10))), perturb(schedule)),
        }
        return {name: matching(chain(*links))(field, example, key)[1] for name, links in chains.items()}

    found = metrics(key)
    assert 1.5 < found["sdac"]["ess"] < 31
    assert 1.5 < found["all"]["ess"] < 7
    for name, origin in (("maxentdp", "sdac"), ("idem", "sdac"), ("qvpo", "all")):
        for metric in ("ess", "weight_kl"):
            np.testing.assert_allclose(found[name][metric], found[origin][metric], rtol=1e-5)


def test_weights_without_a_common_sum_are_compared_over_the_batch(getkey):
    """exp(Q) of one action each: (sum w)^2 / sum w^2; a state whose candidates are level has no advantage."""
    schedule = CosineVP()
    field = constant_field(0.0, schedule, "noise")
    values = jnp.asarray([0.0, 1.0, -2.0, 0.5])
    examples = jax.vmap(lambda obs: replace(transition(0.5), obs=obs[None]))(values)
    q = lambda obs, a: obs[0]
    spread = lambda obs, a: jnp.maximum(obs[0], 0) * a[0]

    @jax.jit
    def metrics(key):
        chains = (
            (boltzmann(q, 1.0, normalise=False),),
            (uniform(8), advantage(spread), best(spread)),
            (uniform(8), boltzmann(q, 1.0)),
        )
        losses = [matching(chain(*links, perturb(schedule))) for links in chains]
        return [batched(loss)(field, examples, key)[1] for loss in losses]

    weight = np.exp(values)
    found, level, normalised = metrics(getkey())
    assert found["batch_ess"] == pytest.approx(weight.sum() ** 2 / np.sum(weight**2), rel=1e-5)
    assert found["zero_weight"] == 0
    assert level["zero_weight"] == 0.5
    assert 1 < level["batch_ess"] <= 2
    assert "batch_ess" not in normalised


def test_proposals_on_a_face(getkey):
    """Clipped Gaussian particles at x = .3, t = .5: N(x / alpha, (sigma / alpha)^2) beyond the box; truncated: none."""
    schedule, t, x = CosineVP(), jnp.asarray(0.5), 0.3
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    field, example = constant_field(0.0, schedule, "noise"), transition(0.5)

    def here(example, match, key):
        point = jnp.full((1, 1), x)
        return Match(match.action, point, t[None], Target(point, point), match.weight, schedule, 1)

    def share(proposal, key):
        links = here, reverse_sample(schedule, 20_000, proposal=proposal), posterior_mean()
        return matching(chain(*links))(field, example, key)[1]["face"]

    face = lambda proposal: jax.jit(partial(share, proposal))(getkey())

    law = stats.norm(x / alpha, sigma / alpha)
    assert face("clipped") == pytest.approx(law.cdf(-1) + law.sf(1), abs=0.012)
    assert face("truncated") < 1e-3


@pytest.mark.parametrize(
    ("law", "mean", "low", "high"),
    [
        (uniform_times(), 0.5, 0, 1),
        (grid_times(10), 0.55, 0.1, 1),
        (power_times(), 0.5, 0.005, 0.995),
        (power_times(3.0), 0.005 + 0.99 / 4, 0.005, 0.995),
        (logit_normal_times(0.0, 1.0), 0.5, 0, 1),
    ],
)
def test_time_laws(getkey, law, mean, low, high):
    t = jax.vmap(lambda key: law(RectifiedFlow(), key))(jax.random.split(getkey(), 20000))
    assert jnp.mean(t) == pytest.approx(mean, abs=4 * 0.29 / np.sqrt(20000))
    assert low <= jnp.min(t)
    assert jnp.max(t) <= high


def test_grid_times_are_the_points_where_an_euler_sampler_evaluates_the_field(getkey):
    t = jax.vmap(lambda key: grid_times(10)(RectifiedFlow(), key))(jax.random.split(getkey(), 500))
    np.testing.assert_allclose(np.unique(t), np.arange(1, 11) / 10, rtol=1e-6)
    schedule = DiscreteVP(cosine_betas(10))
    t = jax.vmap(lambda key: grid_times(5)(schedule, key))(jax.random.split(getkey(), 500))
    np.testing.assert_allclose(np.unique(t), np.arange(1, 6) / 5, rtol=1e-6)


def test_time_laws_respect_the_schedule(getkey):
    schedule = RectifiedFlow(t_min=0.2, t_max=0.7)
    for law in (uniform_times(), grid_times(5), power_times(), logit_normal_times(0.0, 3.0)):
        t = jax.vmap(lambda key, law=law: law(schedule, key))(jax.random.split(getkey(), 200))
        # Nothing is drawn beyond, and the range is used up to both ends.
        assert 0.2 <= jnp.min(t) < 0.31
        assert 0.69 < jnp.max(t) <= 0.7 + 1e-6


def test_batch_invariance(getkey):
    """A batched loss is the mean of its examples, in any order, under jit or not."""
    schedule, n = CosineVP(), 6
    field = Affine(jnp.asarray(0.5), jnp.asarray(0.1), schedule, "noise", 2)
    actions = jax.random.normal(getkey(), (n, 2))
    batch = jax.vmap(transition)(actions)
    loss = matching(lambda *args: at(schedule, 0.4, [0.3, -0.2])(*args))
    whole = batched(loss)(field, batch, getkey())[0]
    single = eqx.filter_jit(loss)
    singles = [single(field, transition(action), getkey())[0] for action in actions]
    np.testing.assert_allclose(whole, jnp.mean(jnp.stack(singles)), rtol=1e-5)
    order = jax.random.permutation(getkey(), n)
    shuffled = jax.tree.map(lambda leaf: leaf[order], batch)
    np.testing.assert_allclose(eqx.filter_jit(batched(loss))(field, shuffled, getkey())[0], whole, rtol=1e-5)


def test_double_precision(x64, getkey):
    schedule = CosineVP()
    field, example = constant_field(0.3, schedule, "noise"), transition([0.5])
    links = perturb(schedule), reverse_sample(schedule, 8), boltzmann(lambda obs, a: a[0], 0.3)
    value, metrics = eqx.filter_eval_shape(matching(chain(*links)), field, example, getkey())
    assert value.dtype == metrics["ess"].dtype == jnp.float64


def test_clear_errors(getkey):
    schedule = CosineVP()
    field, example, q = constant_field(0.0, schedule, "noise"), transition(0.5), lambda obs, a: a[0]

    def run(*links):
        return matching(chain(*links))(field, example, getkey())

    with pytest.raises(ValueError, match="matching needs a chain that adds noise"):
        run(boltzmann(q, 1.0, normalise=False))
    with pytest.raises(ValueError, match="the chain's schedule must be the field's"):
        run(perturb(RectifiedFlow()))
    with pytest.raises(ValueError, match="the chain's schedule must be the field's"):
        run(perturb(CosineVP(offset=0.02)))
    scores = constant_field(0.0, RectifiedFlow(), "score")
    with pytest.raises(
        ValueError, match="t_min is 0, where a score is infinite: give it a t_min of 0.001 or"
    ):
        matching(perturb(RectifiedFlow()))(scores, example, getkey())
    with pytest.raises(ValueError, match="noise was added before"):
        run(perturb(schedule), perturb(schedule))
    with pytest.raises(ValueError, match="candidates must come before noise is added"):
        run(perturb(schedule), candidates(lambda obs, key: obs, 3))
    with pytest.raises(ValueError, match="a single one always weighs 1"):
        run(perturb(schedule), boltzmann(q, 1.0))
    with pytest.raises(ValueError, match="a single one always weighs 1"):
        run(perturb(schedule, draws=8), boltzmann(q, 1.0))
    with pytest.raises(ValueError, match="reduction must be one of mean, sum, sqrt; got 'men'"):
        matching(perturb(schedule), reduction="men")
    with pytest.raises(ValueError, match="time_weight must be one of"):
        matching(perturb(schedule), time_weight="snr")
    with pytest.raises(ValueError, match="times must be one of uniform, grid, power, logit_normal"):
        perturb(schedule, times="gird")
    with pytest.raises(ValueError, match="draws must be an integer of at least 1, got 0"):
        perturb(schedule, draws=0)
