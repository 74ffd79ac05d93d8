"""What constructors refuse: a sentence with the argument as the user typed it, the value and what is allowed.

Without the type checker of the other tests, as a user meets it.
"""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from dpolicy import _checks, envs, fields, losses, samplers
from dpolicy.algorithms import ALGORITHMS
from dpolicy.fields import DiscreteVP, LogSNR, RectifiedFlow
from dpolicy.networks import MLP
from dpolicy.optimisers import ema
from dpolicy.train.replay import Replay

KEY = jax.random.key(0)
NAN = float("nan")
SCHEDULE = RectifiedFlow()


def linear(obs, action):
    return jnp.sum(action)


def identity(*args):
    return args


def field(**options):
    return fields.Field(
        1, 1, **{"schedule": SCHEDULE, "embedding": "raw", "hidden": (2,), **options}, key=KEY
    )


def function_field(**options):
    return fields.FunctionField(
        **{
            "fn": lambda x, t, obs: x,
            "schedule": SCHEDULE,
            "prediction": "noise",
            "action_size": 2,
            **options,
        }
    )


@pytest.fixture(autouse=True)
def unchecked(monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


def refused(make, message):
    with pytest.raises(ValueError) as error:
        make()
    assert message in str(error.value)
    assert "\n" not in str(error.value).strip()


NO_NUMBERS = [
    *(None, True, np.True_, "0.5", b"0.5", ["0.5"], [0.5], (0.5,), 1j, {}, object()),
    *(np.array([]), np.array([0.1, 0.3]), np.array("0.5"), np.array(True)),
]


@pytest.mark.parametrize("value", [*NO_NUMBERS, jnp.array([0.1, 0.3]), jnp.array(True)])
def test_a_number_is_one_number(value):
    refused(lambda: _checks.in_range("clip", value, 0.0, 1.0), "clip must be a finite number in [0, 1], got ")


@pytest.mark.parametrize("value", [0.5, 1, np.float32(0.5), np.array(0.5), np.int64(1), jnp.array(0.5)])
def test_numbers_pass(value):
    _checks.positive("clip", value)
    _checks.positive("clip", jnp.asarray(value, jnp.bfloat16))
    jax.jit(lambda x: _checks.positive("clip", -x))(value)


def test_sequences_are_asked_for():
    for good in ([0.5, 1], (0.5,), np.array([0.5]), jnp.array([0.5])):
        _checks.positive("times", good, ndim=(1,))
    for bad in (0.5, [], "0.5", ["0.5"], [[0.5]], [0.5, None], [0.5, NAN], [0.5, 0.0], [[1.0], [1.0, 2.0]]):
        refused(
            lambda bad=bad: _checks.positive("times", bad, ndim=(1,)),
            "times must be a non-empty sequence of finite numbers in (0, inf), got ",
        )


@pytest.mark.parametrize("value", [1e-50, 1e-40, 1e300])
def test_single_precision(value):
    message = "clip must be a finite number in (0, inf), rounded to single precision, got "
    refused(lambda: _checks.positive("clip", value), message)
    _checks.non_negative("clip", 1e-50)  # rounded to the end of an interval that has it
    refused(lambda: _checks.in_range("t", 1 - 1e-9, 0.0, 1.0, open_high=True), "rounded to single precision")


@pytest.mark.parametrize("value", [1e-50, 1e300])
def test_double_precision(value, x64):
    _checks.positive("clip", value)


HYPERPARAMETERS = [
    *((name, {"learning_rate": None}) for name in ALGORITHMS),
    *((name, {"activation": "nope"}) for name in ALGORITHMS),
    *((name, {"hidden": value}) for name in ALGORITHMS for value in (64, None, (0,), "64", (2.0,))),
    *((name, {"critic_hidden": (0,)}) for name in ("sac", "qsm", "sdac")),
    *((name, {"critic_activation": "nope"}) for name in ("qsm", "sdac")),
    *((name, {"initialisation": "nope"}) for name in ("bc", "qsm", "sdac", "ppo", "fpo", "dp_cppo")),
    *((name, {"embedding": "nope"}) for name in ("bc", "qsm", "sdac")),
    *((name, {"output_scale": v}) for name in ("bc", "qsm", "sdac", "fpo") for v in (NAN, "x", None)),
    *((name, {"sampler_steps": 0}) for name in ("bc", "qsm", "sdac", "fpo")),
    *((name, {"evaluation_candidates": 0}) for name in ("qsm", "sdac")),
    *((name, {"value_hidden": 8}) for name in ("ppo", "fpo", "dp_cppo")),
    *(("dp_cppo", option) for option in ({"flow_hidden": "64"}, {"flow_hidden": (0,)}, {"flow_steps": 0})),
    *(("sac", option) for option in ({"temperature": None}, {"tune_temperature": "False"})),
    ("qsm", {"variant": "nope"}),
    *(("ppo", {"clip": value}) for value in NO_NUMBERS),
]


@pytest.mark.parametrize(("name", "options"), HYPERPARAMETERS)
def test_recipes_name_the_argument(name, options):
    ((argument, _),) = options.items()
    refused(lambda: ALGORITHMS[name].recipe(**options), f"{argument} must be ")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: field(schedule="cosine"), "schedule must be a schedule, such as CosineVP(), got 'cosine'."),
        (lambda: field(output_scale="x"), "output_scale must be a finite number"),
        (lambda: field(obs_hidden=8), "obs_hidden must be a tuple of integers"),
        (lambda: field(hidden=None), "hidden must be a tuple of integers of at least 1, got None."),
        (lambda: field(layer_norm="no"), "layer_norm must be True or False, got 'no'."),
        (
            lambda: jax.jit(lambda scale: field(output_scale=scale).mlp)(1.0),
            "output_scale must be a Python number (it is structure, not a parameter), got a tracer.",
        ),
        (lambda: function_field(schedule=None), "schedule must be a schedule"),
        (lambda: function_field(fn="f"), "fn must be a function (x, t, obs) -> prediction, got 'f'."),
        (lambda: MLP((1,), 1, hidden=(), final_activation=1, key=KEY), "final_activation must be True"),
        (lambda: LogSNR("cosine"), "schedule must be a schedule"),
        (lambda: LogSNR(SCHEDULE, "raw"), "inner must be an embedding, such as Raw(), got 'raw'."),
        (lambda: fields.ddpm_table("cosine", 3), "schedule must be a schedule"),
        (lambda: fields.guided("f", linear), "field must be a field, got 'f'."),
        (lambda: fields.guided(function_field(), "q"), "energy must be a function (x, t, obs) -> scalar"),
        (lambda: fields.classifier_free("f", function_field(), 1.0), "conditional must be a field"),
        (lambda: fields.classifier_free(function_field(), "f", 1.0), "unconditional must be a field or"),
        (lambda: DiscreteVP(0.5), "betas must be a non-empty sequence of finite numbers in (0, 1), got 0.5."),
        (lambda: DiscreteVP(None), "betas must be a non-empty sequence"),
        (lambda: DiscreteVP("ab"), "betas must be a non-empty sequence"),
        (lambda: DiscreteVP(["0.5"]), "betas must be a non-empty sequence"),
        (lambda: fields.cosine_betas(3, offset=NAN), "offset must be a finite number in [0, inf)"),
        (lambda: fields.cosine_betas(3, offset=-1), "offset must be"),
        (lambda: fields.cosine_betas(3, maximum=NAN), "maximum must be a finite number in (0, 1)"),
        (lambda: fields.cosine_betas(3, maximum=2), "maximum must be"),
        (lambda: fields.linear_betas(3, start=-1), "start must be"),
        (lambda: fields.linear_betas(3, end=NAN), "end must be"),
        (lambda: fields.linear_betas(3, end=3), "end must be a finite number in (0, 1), got 3."),
    ],
)
def test_fields_and_schedules(make, message):
    refused(make, message)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: losses.perturb("cosine"), "schedule must be a schedule, such as CosineVP(), got 'cosine'."),
        (lambda: losses.perturb(None), "schedule must be"),
        (lambda: losses.reverse_sample("cosine", 3), "schedule must be"),
        (lambda: losses.one_step("cosine", linear), "schedule must be"),
        (lambda: losses.one_step(SCHEDULE, None), "q must be a function (obs, action) -> scalar, got None."),
        (lambda: losses.boltzmann(None, 1), "q must be a function"),
        (lambda: losses.boltzmann(linear, 1, normalise="no"), "normalise must be True or False"),
        (lambda: losses.advantage("q"), "q must be a function"),
        (lambda: losses.advantage(linear, baseline=1.0), "baseline must be a function obs -> scalar"),
        (lambda: losses.candidates(None, 3), "policy must be a function (obs, key) -> action"),
        (lambda: losses.best(None), "q must be a function"),
        (lambda: losses.ascend(None), "q must be a function"),
        (lambda: losses.ascend(linear, bound=-1), "bound must be a finite number in (0, inf), got -1."),
        (lambda: losses.ascend(linear, bound="x"), "bound must be"),
        (lambda: losses.jitter(0.1, bound=-1), "bound must be"),
        (lambda: losses.mix("x"), "a branch of mix must be a function (example, match, key) -> match"),
        (lambda: losses.mix((1.0, "x")), "a branch of mix must be"),
        (lambda: losses.mix((1.0,)), "a branch of mix must be a transform or a pair"),
        (
            lambda: losses.gradient_ascent(jnp.sum, jnp.ones(1), steps=1, rate=NAN),
            "rate must be a finite number",
        ),
        (
            lambda: losses.gradient_ascent(jnp.sum, jnp.ones(1), steps=1, rate=1.0, bound=-1),
            "bound must be a finite number",
        ),
        (lambda: losses.weigh(1.0), "weight must be a function (obs, action) -> scalar, got 1.0."),
        (lambda: losses.q_score(None, 1.0), "q must be a function"),
        (lambda: losses.add_q_score(None, 1.0), "q must be a function"),
        *(
            (lambda scale=scale: losses.add_q_score(linear, scale), "scale must be a finite number")
            for scale in (NAN, "x", None)
        ),
        (lambda: losses.add_q_score(linear, 1.0, normaliser=2.0), "normaliser must be a function"),
        (lambda: losses.smoothed_score(linear, 1.0, normalise="no"), "normalise must be True or False"),
        (lambda: losses.bptt(None, linear), "sampler must be a function (model, obs, key) -> action"),
        (lambda: losses.bptt(identity, None), "q must be a function"),
        (lambda: losses.soft_value(None, linear, 1.0), "sample must be a function"),
        (lambda: losses.soft_value(identity, linear, -1), "temperature must be a finite number in [0, inf)"),
        (lambda: losses.soft_value(identity, linear, NAN), "temperature must be"),
        (lambda: losses.clipped(None, eps=0.1), "log_ratio must be a log-ratio"),
        (lambda: losses.clipped(losses.gaussian_log_ratio, eps=np.array([])), "eps must be"),
        (lambda: losses.log_ratio(None), "log_likelihood must be a function"),
        (lambda: losses.flow_matching_log_likelihood(None), "loss must be a function"),
        (
            lambda: losses.flow_matching_log_likelihood(identity, per_draw="no"),
            "per_draw must be True or False, got 'no'.",
        ),
        (lambda: losses.flow_matching_log_ratio(identity, clamp=-1), "clamp must be"),
        (lambda: losses.flow_matching_log_ratio(identity, clamp=NAN), "clamp must be"),
        (
            lambda: losses.straight_through_clamp(jnp.ones(1), 5, -5),
            "low must not exceed high, got 5 and -5.",
        ),
        (lambda: losses.power_times(low=0.9, high=0.1), "low must not exceed high, got 0.9 and 0.1."),
        (lambda: losses.adaptive_rate(0.1, 0.1, 0.1, low=1, high=0.1), "low must not exceed high"),
        (lambda: losses.expectile(jnp.ones(1), 2.0), "tau must be a finite number in (0, 1), got 2.0."),
        (
            lambda: losses.clipped_value_loss(jnp.ones(1), jnp.ones(1), jnp.ones(1), -1),
            "eps must be a finite number in (0, inf), got -1.",
        ),
        (
            lambda: losses.td_target(jnp.ones(1), jnp.ones(1, bool), jnp.ones(1), 2),
            "discount must be a finite number in [0, 1], got 2.",
        ),
        (lambda: losses.bellman(None), "target must be a function"),
        (lambda: losses.expectile_regression(None, 0.5), "q must be a function"),
        (lambda: losses.averaged(None, 2), "loss must be a function"),
        (lambda: losses.batched(None), "loss must be a function"),
        (lambda: losses.on("field", identity), "selector must be a function"),
        (lambda: losses.given(None, identity), "view must be a function"),
        (lambda: losses.weighted(1.0, identity), "weight must be a function"),
        (lambda: losses.distil(identity, None), "teacher must be a function"),
        (lambda: losses.dual(None, identity), "multiplier_of must be a function"),
        (lambda: samplers.ddpm(final_noise="no"), "final_noise must be True or False, got 'no'."),
        (lambda: samplers.coupled(rematerialise=1), "rematerialise must be True or False, got 1."),
        (lambda: samplers.ddim(final_noise=0), "final_noise must be"),
        (lambda: samplers.ddim(recompute="no"), "recompute must be"),
        (lambda: samplers.ode(steps=1, times=[0.5, "0"]), "times must be a non-empty sequence"),
        (lambda: samplers.best_of(3, "x", linear), "sampler must be a function"),
        (lambda: samplers.best_of(3, samplers.ode(), None), "q must be a function"),
    ],
)
def test_losses_and_samplers(make, message):
    refused(make, message)


ONES, COLUMN, NO = jnp.ones(4), jnp.ones((4, 1)), jnp.zeros(4, bool)


@pytest.mark.parametrize(
    ("make", "shapes"),
    [
        (lambda: losses.gae(ONES, COLUMN, ONES, NO, NO, discount=0.9, trace=0.9), "(4,), (4, 1)"),
        (lambda: losses.gae(jnp.ones(1), ONES, ONES, NO, NO, discount=0.9, trace=0.9), "(1,), (4,)"),
        (lambda: losses.gae(ONES, ONES, ONES, NO, NO[:1], discount=0.9, trace=0.9), "(1,)"),
        (lambda: losses.td_target(ONES, NO, COLUMN, 0.9), "(4,), (4,), (4, 1)"),
        (lambda: losses.ppo_clip(ONES, COLUMN, 0.1), "(4,), (4, 1)"),
        (lambda: losses.spo(ONES, COLUMN, 0.1), "(4,), (4, 1)"),
        (lambda: losses.explained_variance(ONES, COLUMN), "(4,), (4, 1)"),
        (lambda: losses.clipped_value_loss(ONES, COLUMN, ONES, 0.1), "(4,), (4, 1), (4,)"),
        (lambda: ema({"a": ONES}, {"a": COLUMN}, 0.5), "(4,) and (4, 1)"),
        (lambda: samplers.select(COLUMN[:3], ONES), "one number per action, (3,), got (4,)."),
        (
            lambda: samplers.log_likelihood(function_field(), jnp.ones(1), ONES),
            "action must have the field's action shape (2,), got (1,).",
        ),
        (
            lambda: Replay.start({"x": jnp.zeros(3)}, 4).add({"x": jnp.ones((2, 2))}),
            "items must be float32[2, 3], as those stored, got float32[2, 2].",
        ),
        (
            lambda: Replay.start({"x": jnp.zeros(3)}, 4).add({"x": jnp.ones((2, 3), int)}),
            "items must be float32[2, 3], as those stored, got int32[2, 3].",
        ),
        *(
            (
                lambda name=name, size=size: envs.make(name).step(jnp.zeros(2), jnp.zeros(size), KEY),
                f"action must have the shape ({3 - size},) of {name}, got ({size},).",
            )
            for name, size in (
                ("multigoal/multigoal", 1),
                ("bandit/quadratic", 1),
                ("bandit/linear", 2),
                ("probe/action", 2),
                ("gymnax/Pendulum-v1", 2),
            )
        ),
    ],
)
def test_shapes_are_not_broadcast(make, shapes):
    refused(make, shapes)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: envs.make("multigoal", start=(0, 0, 0)), "start must be two numbers, got (0, 0, 0)."),
        (lambda: envs.make("multigoal", start=(0.0,)), "start must be two numbers"),
        (lambda: envs.make("multigoal", start=5), "start must be two numbers, got 5."),
        (lambda: envs.make("multigoal", start=None), "start must be two numbers"),
        (
            lambda: envs.make("multigoal", start=(100, 0)),
            "start must be a finite number in [-7, 7], got 100.",
        ),
        (lambda: envs.MultiGoal().starting_at((100, 0)), "position must be a finite number in [-7, 7]"),
        (
            lambda: envs.make("gymnax/Pendulum-v1", max_steps_in_episode=2.7),
            "max_steps_in_episode must be an",
        ),
        *(
            (
                lambda name=name, value=value: envs.make("gymnax/Pendulum-v1", **{name: value}),
                f"{name} must be a finite number in (-inf, inf), got {value!r}.",
            )
            for name, value in (("g", "strong"), ("g", NAN), ("g", None), ("dt", NAN))
        ),
        (lambda: envs.make("gymnax/Pendulum-v1", max_torque=-1), "must have a bounded, continuous action"),
        (
            lambda: envs.make("gymnax/Pendulum-v1", time_limit=5, max_steps_in_episode=6),
            "max_steps_in_episode must not be given where time_limit is, got 6.",
        ),
        (lambda: envs.mixture(means=(), stds=()), "means must be a non-empty sequence of finite numbers"),
        (lambda: envs.mixture(means=0.5), "means must be a non-empty sequence"),
        (lambda: envs.rings(radii=0.4), "radii must be a non-empty sequence of finite numbers in (0, 1]"),
        (lambda: envs.quadratic(action_size="2"), "action_size must be an integer from 1 to 2, got '2'."),
        (lambda: envs.quadratic(action_size=None), "action_size must be"),
        (lambda: envs.linear(action_size=2.0), "action_size must be"),
        (lambda: envs.Bandit(jnp.sum, action_size=1, modes=[[NAN]]), "modes must be"),
        (lambda: envs.Bandit(jnp.sum, action_size=1, modes=[[5.0]]), "finite numbers in [-1, 1], got "),
        (lambda: envs.Bandit(None, action_size=1, modes=[[0.0]]), "function must be a function"),
        (lambda: envs.make(5), 'env must be a name "family/task" or path/to/file.py:NAME, got 5.'),
        (lambda: envs.make(None), 'env must be a name "family/task" or path/to/file.py:NAME, got None.'),
        (lambda: envs.Vector(None, 2), "env must be an Environment, got None."),
        (lambda: envs.Vector(envs.linear(), 2, random_start="no"), "random_start must be True or False"),
        (lambda: envs.evaluate_episodes(envs.linear(), None, KEY, 1, 1), "policy must be a function"),
    ],
)
def test_environments(make, message):
    refused(make, message)


def test_starts_may_be_mapped():
    starts = jnp.array([[1.0, 2.0], [100.0, 0.0]])  # what is traced cannot be refused
    mapped = jax.vmap(lambda start: envs.MultiGoal(start=start).starting_at((start[1], 0.0)).start)(starts)
    np.testing.assert_array_equal(mapped, [[2.0, 0.0], [0.0, 0.0]])
