"""Every number that a public function takes has a range: beyond it, and for what is none, one sentence names it."""

import inspect
import re

import jax
import jax.numpy as jnp
import pytest

from dpolicy import fields, losses, networks, samplers
from dpolicy.algorithms import dppo, fpo, fpopp, genpo
from dpolicy.optimisers import adam, ema

pytestmark = pytest.mark.usefixtures("unchecked_types")

KEY = jax.random.key(0)
ONES, DRAWS, MASK = jnp.ones(3), jnp.array([0.3, -0.2, 0.5]), jnp.array([True, False, False])
SCHEDULE = fields.RectifiedFlow()
COSINE = fields.CosineVP()
NAN, INF = float("nan"), float("inf")

NO_NUMBER = (NAN, INF, -INF, True, "1", 1j, [0.5], None)
NUMBER = NO_NUMBER
NON_NEGATIVE = (-0.1, -1, *NO_NUMBER)
POSITIVE = (0, 0.0, *NON_NEGATIVE)
FRACTION = (1.1, 2, *NON_NEGATIVE)
INSIDE = (0, 1, 1.0, *FRACTION)  # the open interval from 0 to 1
FACTOR = (0.9, 0, *NON_NEGATIVE)
COUNT = (0, 0.5, 1.0, -1, *NO_NUMBER)
COUNT_FROM_2 = (1, *COUNT)
COUNT_OR_NONE_AT_ALL = (0.5, 1.0, -1, *NO_NUMBER)


def linear(obs, action):
    return jnp.sum(action)


def named(*args):
    return args[0]


def field(**options):
    return fields.Field(
        **{
            "obs_size": 1,
            "action_size": 1,
            "schedule": SCHEDULE,
            "embedding": "raw",
            "hidden": (2,),
            **options,
        },
        key=KEY,
    )


FIELD = fields.FunctionField(lambda x, t, obs: x, schedule=COSINE, prediction="noise", action_size=2)


def made(kind, **valid):
    return lambda **options: kind(**{"hidden": (2,), "key": KEY, **valid, **options})


def of(function, *args, **valid):
    return lambda **options: function(*args, **{**valid, **options})


def optional(bad):
    """What is refused where None means none."""
    return tuple(value for value in bad if value is not None)


RATIO = of(losses.ppo_clip, DRAWS, ONES)
RATE = of(losses.adaptive_rate, rate=1e-3, kl=0.01, target=0.01)
ODE = {"steps": COUNT, "initial_scale": POSITIVE, "clip": optional(POSITIVE), "truncate": optional(COUNT)}
ANCESTRAL = {
    **ODE,
    "clip_state": optional(POSITIVE),
    "min_std": NON_NEGATIVE,
    "noise_bound": optional(POSITIVE),
}
SIZES = {"obs_size": COUNT_OR_NONE_AT_ALL, "action_size": COUNT, "final_scale": NON_NEGATIVE}
TIMES = {"t_min": FRACTION, "t_max": FRACTION}
TABLE = {
    "uniform": (of(losses.uniform, n=2), {"n": COUNT, "bound": POSITIVE}),
    "candidates": (of(losses.candidates, named), {"n": COUNT}),
    "jitter": (of(losses.jitter, std=0.1), {"std": NON_NEGATIVE, "bound": optional(POSITIVE)}),
    "ascend": (
        of(losses.ascend, linear),
        {
            "steps": COUNT_OR_NONE_AT_ALL,
            "rate": POSITIVE,
            "bound": POSITIVE,
            "max_grad_norm": optional(POSITIVE),
        },
    ),
    "gradient_ascent": (
        of(losses.gradient_ascent, jnp.sum, ONES, steps=1, rate=0.1),
        {
            "steps": COUNT_OR_NONE_AT_ALL,
            "rate": POSITIVE,
            "bound": POSITIVE,
            "eps": POSITIVE,
            "max_grad_norm": optional(POSITIVE),
        },
    ),
    "support": (
        of(losses.support, low=-1.0, high=1.0, atoms=3),
        {"low": NUMBER, "high": NUMBER, "atoms": COUNT_FROM_2},
    ),
    "categorical_target": (
        of(losses.categorical_target, ONES / 3, ONES[0], MASK[0], discount=0.9, low=-1.0, high=1.0),
        {"discount": FRACTION, "low": NUMBER, "high": NUMBER},
    ),
    "categorical_cross_entropy": (
        of(losses.categorical_cross_entropy, -ONES, ONES / 3, entropy_weight=0.1),
        {"entropy_weight": NON_NEGATIVE},
    ),
    "td_target_law": (
        of(losses.td_target_law, ONES[0], MASK[0], networks.Points(ONES, ONES / 3), discount=0.9),
        {"discount": FRACTION},
    ),
    "hl_gauss": (of(losses.hl_gauss, ONES[0], jnp.arange(3.0)), {"width": POSITIVE}),
    "quantile_huber": (of(losses.quantile_huber, ONES, ONES), {"kappa": POSITIVE}),
    "quantile_error": (of(losses.quantile_error), {"kappa": POSITIVE}),
    "huber": (of(losses.huber, ONES), {"kappa": POSITIVE}),
    "huber_error": (of(losses.huber_error), {"kappa": POSITIVE}),
    "categorical_error": (
        of(losses.categorical_error),
        {"width": optional(POSITIVE), "entropy_weight": NON_NEGATIVE},
    ),
    "averaged": (of(losses.averaged, named), {"draws": COUNT}),
    "clip_schedule": (
        of(losses.clip_schedule, steps=3, low=0.1, high=0.2),
        {"steps": COUNT, "low": POSITIVE, "high": POSITIVE, "rate": POSITIVE},
    ),
    "chain_log_likelihood": (
        of(losses.chain_log_likelihood, samplers.ddpm(steps=3, min_std=0.1, final_noise=True)),
        {"trained": (4, *optional(COUNT))},
    ),
    "denoising_discounts": (
        of(losses.denoising_discounts, steps=3, discount=0.9),
        {"steps": COUNT, "discount": FRACTION},
    ),
    "gaussian_value_loss": (of(losses.gaussian_value_loss, *[ONES] * 5), {"floor": POSITIVE}),
    "gaussian_error": (of(losses.gaussian_error, ONES), {"floor": POSITIVE}),
    "denoiser_weight": (of(losses.denoiser_weight), {"data_std": POSITIVE}),
    "consistency_levels": (
        of(losses.consistency_levels, progress=0.5),
        {"progress": FRACTION, "low": (1, *POSITIVE), "high": (1, *POSITIVE)},
    ),
    "consistency_matching": (of(losses.consistency_matching, FIELD), {"levels": (1, *POSITIVE)}),
    "q_direction": (of(losses.q_direction, linear, ONES, ONES), {"weight": NUMBER, "floor": POSITIVE}),
    "match_directions": (
        of(losses.match_directions, samplers.ddpm(steps=3), linear),
        {"slope": NUMBER, "offset": NUMBER, "floor": POSITIVE},
    ),
    "differentiated": (
        of(samplers.differentiated, samplers.ddpm(steps=3)),
        {"truncate": (4, *optional(COUNT)), "max_norm": optional(POSITIVE)},
    ),
    "knn_entropy": (of(losses.knn_entropy, jnp.eye(3)), {"floor": POSITIVE, "neighbours": COUNT}),
    "fit_mixture": (of(losses.fit_mixture, jnp.eye(3), KEY), {"components": COUNT, "floor": POSITIVE}),
    "mixture_entropy": (
        of(losses.mixture_entropy, jnp.eye(3), KEY),
        {"components": COUNT, "floor": POSITIVE},
    ),
    "gaussian_fit_entropy": (of(losses.gaussian_fit_entropy, jnp.eye(3)), {"floor": POSITIVE}),
    "gae": (
        of(losses.gae, ONES, ONES, ONES, MASK, MASK, discount=0.9, trace=0.9),
        {"discount": FRACTION, "trace": FRACTION},
    ),
    "standardise": (of(losses.standardise, DRAWS), {"eps": POSITIVE, "magnitude": NON_NEGATIVE}),
    "matching": (
        of(losses.matching, losses.perturb(SCHEDULE)),
        {"cap": optional(POSITIVE), "huber": optional(POSITIVE)},
    ),
    "mean_flow_matching": (
        of(losses.mean_flow_matching, losses.perturb(SCHEDULE)),
        {"equal_share": FRACTION},
    ),
    "perturb": (of(losses.perturb, SCHEDULE), {"draws": COUNT}),
    "reverse_sample": (of(losses.reverse_sample, SCHEDULE, n=3), {"n": COUNT_FROM_2, "bound": POSITIVE}),
    "denoised": (of(losses.denoised, SCHEDULE), {"clip": optional(POSITIVE)}),
    "one_step_of_either": (of(losses.one_step_of_either, SCHEDULE, linear), {"clip": optional(POSITIVE)}),
    "one_step_log_likelihood": (of(losses.one_step_log_likelihood, SCHEDULE), {"clip": optional(POSITIVE)}),
    "one_step_draws": (
        lambda **given: losses.one_step_draws(SCHEDULE, **{"n": 1, **given}),
        {"n": COUNT, "clip": optional(POSITIVE)},
    ),
    "critic_regularised": (
        lambda **given: losses.critic_regularised(named, named, linear, **{"temperature": 1.0, **given}),
        {"temperature": POSITIVE, "largest": POSITIVE},
    ),
    "one_step": (of(losses.one_step, SCHEDULE, linear), {"clip": optional(POSITIVE)}),
    "soft_value": (of(losses.soft_value, named, linear), {"temperature": NON_NEGATIVE}),
    "log_ratio": (of(losses.log_ratio, named), {"clip": optional(POSITIVE)}),
    "log_ratio_from_losses": (of(losses.log_ratio_from_losses, ONES, DRAWS), {"clamp": POSITIVE}),
    "ratio_from_losses": (of(losses.ratio_from_losses, ONES, DRAWS), {"clamp": POSITIVE}),
    "flow_matching_log_likelihood": (
        of(losses.flow_matching_log_likelihood, named),
        {"draws": COUNT, "loss_clip": optional(POSITIVE)},
    ),
    "flow_matching_log_ratio": (
        of(losses.flow_matching_log_ratio, named),
        {
            "draws": COUNT,
            "clamp": POSITIVE,
            "loss_clip": optional(POSITIVE),
            "old_loss_clip": optional(POSITIVE),
            "clip": optional(POSITIVE),
        },
    ),
    "straight_through_clamp": (
        of(losses.straight_through_clamp, DRAWS),
        {"low": optional(NUMBER), "high": optional(NUMBER)},
    ),
    "ppo_clip": (RATIO, {"eps": POSITIVE}),
    "spo": (of(losses.spo, DRAWS, ONES), {"eps": POSITIVE}),
    "aspo": (of(losses.aspo, DRAWS, ONES), {"eps": POSITIVE}),
    "adaptive_rate": (
        RATE,
        {
            **dict.fromkeys(("rate", "target", "low", "high"), POSITIVE),
            "kl": NUMBER,
            "factor": FACTOR,
            "floor": NUMBER,
        },
    ),
    "q_score": (of(losses.q_score, linear), {"temperature": POSITIVE}),
    "add_q_score": (of(losses.add_q_score, linear), {"scale": NUMBER}),
    "smoothed_score": (
        of(losses.smoothed_score, linear, temperature=1.0),
        {"temperature": POSITIVE, "noise_share": FRACTION, "max_norm": optional(POSITIVE)},
    ),
    "linear_weights": (
        of(losses.linear_weights, DRAWS, temperature=1.0),
        {"temperature": POSITIVE, "floor": (1, *NUMBER)},
    ),
    "square_weights": (of(losses.square_weights, DRAWS), {"temperature": POSITIVE}),
    "tilt": (
        of(losses.tilt, linear, temperature=1.0, shape="linear"),
        {"temperature": POSITIVE, "floor": (1, *NUMBER)},
    ),
    "boltzmann": (
        of(losses.boltzmann, linear, temperature=1.0, normalise=False),
        {"temperature": POSITIVE, "clip": optional(POSITIVE)},
    ),
    "grid_times": (of(losses.grid_times), {"steps": COUNT}),
    "power_times": (of(losses.power_times), {"exponent": POSITIVE, "low": FRACTION, "high": FRACTION}),
    "log_logistic_times": (of(losses.log_logistic_times), {"median": POSITIVE, "scale": POSITIVE}),
    "logit_normal_times": (of(losses.logit_normal_times), {"mean": NUMBER, "std": POSITIVE}),
    "planned_returns": (of(losses.planned_returns, ONES, MASK, ONES), {"discount": FRACTION}),
    "td_target": (of(losses.td_target, ONES, MASK, ONES), {"discount": FRACTION}),
    "reduce_ensemble": (of(losses.reduce_ensemble, jnp.eye(3), "lcb"), {"pessimism": NO_NUMBER}),
    "dropping": (
        of(losses.dropping, lambda model, example, key: (0, {})),
        {"rate": (1, 1.0, *FRACTION)},
    ),
    "expectile": (of(losses.expectile, DRAWS), {"tau": INSIDE}),
    "expectile_weight": (of(losses.expectile_weight, DRAWS), {"tau": INSIDE}),
    "conservative": (
        lambda **given: losses.conservative(lambda example, key: jnp.zeros((1, 2)), **given),
        {"random": COUNT_OR_NONE_AT_ALL, "copies": COUNT, "temperature": POSITIVE},
    ),
    "expectile_regression": (of(losses.expectile_regression, linear), {"tau": INSIDE}),
    "softmax_value": (of(losses.softmax_value, ONES, temperature=1.0), {"temperature": POSITIVE}),
    "exponential_conjugate": (of(losses.exponential_conjugate, DRAWS), {"bound": optional(NUMBER)}),
    "regularised_value": (of(losses.regularised_value, linear, jnp.exp), {"temperature": POSITIVE}),
    "regularised_weight": (
        lambda **given: losses.regularised_weight(
            linear, lambda obs: jnp.zeros(()), jnp.exp, **{"temperature": 1.0, **given}
        ),
        {"temperature": POSITIVE, "largest": POSITIVE},
    ),
    "exponential_advantage": (
        lambda **given: losses.exponential_advantage(
            linear, lambda obs: jnp.zeros(()), **{"temperature": 1.0, **given}
        ),
        {"temperature": POSITIVE, "largest": POSITIVE},
    ),
    "clipped_value_loss": (of(losses.clipped_value_loss, ONES, ONES, ONES), {"eps": POSITIVE}),
    "value_regression": (of(losses.value_regression), {"eps": optional(POSITIVE)}),
    "clipped": (
        of(losses.clipped, losses.gaussian_log_ratio),
        {"eps": tuple(value for value in POSITIVE if value != [0.5])},
    ),
    "ode": (of(samplers.ode, steps=3), ODE),
    "tsit5": (of(samplers.ode, solver="tsit5"), {"rtol": POSITIVE, "atol": POSITIVE, "max_steps": COUNT}),
    "sde": (of(samplers.sde, steps=3), {**ODE, "eta": NON_NEGATIVE}),
    "ddpm": (of(samplers.ddpm, steps=3), ANCESTRAL),
    "dpm_solver": (of(samplers.dpm_solver, steps=3), {**ODE, "order": COUNT}),
    "ddim": (of(samplers.ddim, steps=3), {**ANCESTRAL, "eta": FRACTION}),
    "coupled": (of(samplers.coupled), {"steps": COUNT, "mixing": optional((0, *FRACTION))}),
    "controlled_path": (
        of(samplers.controlled_path, lambda x, t, obs: x, ONES, KEY, step_sizes=jnp.ones((2, 1))),
        {"step_sizes": (0.5, "x", [[0.5], [0.0]], [[NAN], [1.0]]), "prior_std": POSITIVE},
    ),
    "step_value": (
        of(losses.step_value, samplers.ddpm(steps=3), FIELD, linear, lambda x, t, obs: ONES, eta=1.0),
        {"eta": NON_NEGATIVE, "draws": COUNT, "pessimism": NO_NUMBER},
    ),
    "step_divergence": (
        of(samplers.step_divergence, samplers.ddpm(steps=3), FIELD, FIELD, jnp.ones(2), ONES),
        {"step": (-1, 3, 0.5, 1.0, *NO_NUMBER)},
    ),
    "cosine_step_shape": (
        of(samplers.cosine_step_shape, steps=3),
        {"steps": COUNT, "floor": FRACTION, "offset": POSITIVE},
    ),
    "tied_mixing": (of(samplers.tied_mixing), {"steps": COUNT}),
    "langevin": (
        of(samplers.langevin, steps=3),
        {**ODE, "corrections": COUNT_OR_NONE_AT_ALL, "step_size": (0, 2, 2.5, *NON_NEGATIVE)},
    ),
    "unadjusted_langevin": (
        of(samplers.unadjusted_langevin, steps=2),
        {
            **{name: ODE[name] for name in ("steps", "initial_scale", "truncate")},
            "step_sizes": (0.5, "x", [0.5, 0.0], [1.0, NAN], [1.0, 1j], ["1", "1"]),
            "bound": optional(POSITIVE),
            "time": FRACTION,
        },
    ),
    "consistency": (
        of(samplers.consistency),
        {
            "later": ([NAN], [0.0], [1.0], 0.5, "x"),
            **{n: ODE[n] for n in ("initial_scale", "clip")},
        },
    ),
    "mean_flow": (of(samplers.mean_flow), {name: ODE[name] for name in ("steps", "initial_scale", "clip")}),
    "best_of": (
        of(samplers.best_of, sampler=named, q=linear, n=2),
        {"n": COUNT, "temperature": optional(POSITIVE), "picks": COUNT},
    ),
    "select": (
        of(samplers.select, jnp.eye(3), DRAWS, KEY),
        {"temperature": optional(POSITIVE), "picks": COUNT},
    ),
    "log_likelihood": (
        of(samplers.log_likelihood, FIELD, ONES[:2], ONES, KEY, method="hutchinson", solver="euler"),
        {"steps": COUNT, "probes": COUNT, "rtol": POSITIVE, "atol": POSITIVE, "max_steps": COUNT},
    ),
    "mmse_log_likelihood": (
        of(samplers.mmse_log_likelihood, FIELD, ONES[:2], ONES, KEY),
        {"steps": COUNT, "draws": COUNT, "clip": optional(POSITIVE)},
    ),
    "log_density_of_errors": (of(samplers.log_density_of_errors, ONES[:2], DRAWS), {"dim": COUNT}),
    "RectifiedFlow": (of(fields.RectifiedFlow), TIMES),
    "Trigonometric": (of(fields.Trigonometric), TIMES),
    "CosineVP": (of(fields.CosineVP), {**TIMES, "offset": POSITIVE}),
    "LinearVP": (of(fields.LinearVP), {**TIMES, "beta_min": POSITIVE, "beta_max": POSITIVE}),
    "VarianceExploding": (
        of(fields.VarianceExploding),
        {**TIMES, "sigma_min": POSITIVE, "sigma_max": POSITIVE},
    ),
    "Karras": (
        of(fields.Karras),
        {"sigma_min": POSITIVE, "sigma_max": POSITIVE, "exponent": (0.5, *POSITIVE)},
    ),
    "consistency_scalings": (
        of(fields.consistency_scalings, 1.0),
        {"sigma_min": NON_NEGATIVE, "data_std": POSITIVE},
    ),
    "cosine_betas": (
        of(fields.cosine_betas, steps=3),
        {"steps": COUNT, "offset": NON_NEGATIVE, "maximum": INSIDE},
    ),
    "linear_betas": (of(fields.linear_betas, steps=3), {"steps": COUNT, "start": INSIDE, "end": INSIDE}),
    "ddpm_table": (of(fields.ddpm_table, SCHEDULE), {"steps": COUNT}),
    "grid": (of(SCHEDULE.grid), {"steps": COUNT}),
    "guided": (of(fields.guided, FIELD, named), {"scale": NUMBER}),
    "classifier_free": (of(fields.classifier_free, FIELD, ONES), {"weight": NUMBER}),
    "ema": (of(ema, ONES, DRAWS), {"decay": FRACTION}),
    "adam": (
        of(adam, learning_rate=1e-3),
        {
            "learning_rate": optional(POSITIVE),
            "max_grad_norm": optional(POSITIVE),
            "weight_decay": optional(NON_NEGATIVE),
        },
    ),
    "Field": (field, {**SIZES, "output_scale": NUMBER}),
    "EnergyNetwork": (made(fields.EnergyNetwork, obs_size=1, action_size=1), SIZES),
    "ConsistencyField": (
        made(fields.ConsistencyField, obs_size=1, action_size=1),
        {n: v for n, v in SIZES.items() if n != "final_scale"}
        | {"data_std": POSITIVE, "clip": optional(POSITIVE)},
    ),
    "FunctionField": (
        of(fields.FunctionField, named, schedule=SCHEDULE, prediction="noise"),
        {"action_size": COUNT},
    ),
    "MLP": (made(networks.MLP, in_sizes=(1,), out_size=1), {"out_size": COUNT, "final_scale": NON_NEGATIVE}),
    "ensemble": (of(networks.ensemble, named, key=KEY), {"size": COUNT}),
    "QNetwork": (made(networks.QNetwork, obs_size=1, action_size=1), SIZES),
    "ValueNetwork": (
        made(networks.ValueNetwork, obs_size=1),
        {k: v for k, v in SIZES.items() if k != "action_size"},
    ),
    "CategoricalQ": (
        made(networks.CategoricalQ, obs_size=1, action_size=1),
        {**SIZES, "atoms": COUNT_FROM_2},
    ),
    "GaussianQ": (made(networks.GaussianQ, obs_size=1, action_size=1), SIZES),
    "Gaussian": (made(networks.Gaussian, obs_size=1, action_size=1), {**SIZES, "initial_std": POSITIVE}),
    "ResidualGaussian": (
        made(networks.ResidualGaussian, obs_size=1, action_size=1),
        {**SIZES, "initial_std": POSITIVE},
    ),
    "TanhDeterministic": (made(networks.TanhDeterministic, obs_size=1, action_size=1), SIZES),
    "TanhGaussian": (
        made(networks.TanhGaussian, obs_size=1, action_size=1),
        {**SIZES, "log_std_min": NUMBER, "log_std_max": NUMBER, "initial_std": optional(POSITIVE)},
    ),
    "gaussian_policy": (of(networks.gaussian_policy, networks.Gaussian), {"initial_std": POSITIVE}),
    "CosSin": (of(fields.CosSin), {"size": (3, *COUNT_FROM_2)}),
    "Sinusoidal": (
        of(fields.Sinusoidal),
        {"size": (2, 5, *COUNT_FROM_2), "scale": POSITIVE, "shift": NUMBER},
    ),
    "Phased": (of(fields.Phased, steps=3), {"size": (3, *COUNT_FROM_2), "steps": COUNT}),
    "LangevinControl": (
        of(fields.LangevinControl, 2, hidden=(2,), key=KEY, action_size=1, steps=2),
        {
            **dict.fromkeys(("action_size", "steps", "time_size"), COUNT),
            "step_size": POSITIVE,
            "friction": POSITIVE,
        },
    ),
    "RandomFourier": (of(fields.RandomFourier, key=KEY), {"size": (3, *COUNT_FROM_2), "std": POSITIVE}),
    "LearnableFourier": (
        of(fields.LearnableFourier, key=KEY),
        {"size": (3, *COUNT_FROM_2), "std": POSITIVE},
    ),
    "Projected": (made(fields.Projected, inner=fields.Raw()), {"size": COUNT}),
    "dppo": (
        dppo,
        {
            "clip_low": optional(POSITIVE),
            "clip_rate": POSITIVE,
            "denoising_discount": FRACTION,
            "likelihood_std": optional(POSITIVE),
            "schedule_steps": (11, *optional(COUNT)),
        },
    ),
    "fpo": (fpo, {"log_ratio_clip": optional(POSITIVE)}),
    "fpopp": (fpopp, {"log_ratio_clip": optional(POSITIVE), "time_exponent": POSITIVE}),
    "genpo": (genpo, {"sampler_steps": COUNT}),
}


@pytest.mark.parametrize(
    ("call", "argument", "bad"),
    [
        pytest.param(call, argument, bad, id=f"{name}-{argument}")
        for name, (call, ranges) in TABLE.items()
        for argument, bad in ranges.items()
    ],
)
def test_a_number_out_of_its_range_is_named(call, argument, bad):
    for value in bad:
        with pytest.raises(ValueError) as error:
            call(**{argument: value})
        sentence = str(error.value)
        assert re.match(rf"{argument} must (be|hold) ", sentence), (value, sentence)
        assert "\n" not in sentence.strip()


ELSEWHERE = {
    *(("ode", name) for name in TABLE["tsit5"][1]),
    *{
        ("add", "terms"),
        ("sharing", "terms"),
        ("mix", "branches"),
        ("chain_log_likelihood", "bounds"),
    },  # by their own names: test_bad_pairs.py
}


@pytest.mark.parametrize("module", [losses, samplers])
def test_no_number_is_left_out_of_the_table(module):
    missing = []
    for name, value in vars(module).items():
        if name.startswith("_") or not inspect.isfunction(value):
            continue
        for argument, parameter in inspect.signature(value).parameters.items():
            is_number = bool(re.search(r"\bint\b|float \||'float'", str(parameter.annotation)))
            is_number |= parameter.annotation is float
            if (
                is_number
                and argument not in TABLE.get(name, (None, {}))[1]
                and (name, argument) not in ELSEWHERE
            ):
                missing.append(f"{module.__name__}.{name}({argument})")
    assert not missing
