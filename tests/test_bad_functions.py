"""What a user's function returns is taken as it is or refused in a sentence, never broadcast; and other bad input."""

import re

import jax
import jax.numpy as jnp
import pytest

from dpolicy import _checks
from dpolicy._types import Transition
from dpolicy.algorithms import ddiffpg, dpmd, dps, gempo, idem, maxentdp, sdac
from dpolicy.audit import network
from dpolicy.blocks import tuned_noise
from dpolicy.envs import Spec
from dpolicy.fields import CosineVP, FunctionField
from dpolicy.losses import (
    LogRatio,
    add_q_score,
    advantage,
    ascend,
    best,
    boltzmann,
    candidates,
    chain,
    clipped,
    flow_matching_log_ratio,
    gaussian_log_likelihood,
    gaussian_log_ratio,
    log_ratio,
    matching,
    perturb,
    posterior_mean,
    q_score,
    report,
    reverse_sample,
    smoothed_score,
    tilt,
    weigh,
)

KEY, SCHEDULE = jax.random.key(0), CosineVP()
FIELD = FunctionField(lambda x, t, obs: x, schedule=SCHEDULE, prediction="noise", action_size=2)
NOISE = perturb(SCHEDULE)
FOUR = candidates(lambda obs, key: jax.random.normal(key, (2,)), 4)
REVERSE = reverse_sample(SCHEDULE, 4)


def q(obs, action):
    return -jnp.sum(action**2)


def pair(obs, action):
    return jnp.stack([q(obs, action), q(obs, action)])


def single(obs, action):
    return q(obs, action)[None]


def example(**extras):
    end = jnp.zeros((), bool)
    return Transition(jnp.zeros(3), jnp.zeros(2), jnp.zeros(()), jnp.zeros(3), end, end, extras=extras)


def loss(*links, **options):
    return matching(chain(*links), **options)(FIELD, example(), KEY)[0]


@pytest.mark.parametrize("critic", [pair, single, lambda obs, action: (q(obs, action), 0.0)])
@pytest.mark.parametrize(
    ("name", "links"),
    [
        ("q", lambda f: (FOUR, boltzmann(f, 1.0), NOISE)),
        ("q", lambda f: (FOUR, advantage(f), NOISE)),
        ("q", lambda f: (FOUR, best(f), NOISE)),
        ("q", lambda f: (FOUR, tilt(f, 1.0, shape="linear"), NOISE)),
        ("q", lambda f: (ascend(f, steps=1), NOISE)),
        ("q", lambda f: (NOISE, q_score(f, 1.0))),
        ("q", lambda f: (NOISE, REVERSE, smoothed_score(f, 1.0))),
        ("weight", lambda f: (FOUR, weigh(f), NOISE)),
        ("z", lambda f: (FOUR, report(z=f), NOISE)),
        ("normaliser", lambda f: (NOISE, add_q_score(q, 1.0, normaliser=f))),
    ],
)
def test_a_critic_returns_a_scalar(critic, name, links):
    with pytest.raises(ValueError, match=f"^{name} must return a scalar, got (shape|tuple)"):
        loss(*links(critic))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: loss(FOUR, advantage(q, baseline=jnp.ones_like), NOISE), "baseline must return a scalar"),
        (
            lambda: loss(NOISE, time_weight=lambda schedule, t: 1.0),
            "time_weight must return an array of shape",
        ),
        (lambda: loss(NOISE, time_weight=lambda schedule, t: t[:, None]), "time_weight must return an array"),
        (
            lambda: loss(perturb(SCHEDULE, times=lambda s, key: jnp.ones(1))),
            "times must return a scalar, got",
        ),
        (
            lambda: loss(candidates(lambda obs, key: jnp.zeros(3), 4), NOISE),
            r"policy must return an array of shape \(2,\), got shape \(3,\)",
        ),
        (
            lambda: loss(candidates(lambda obs, key: (jnp.zeros(2), jnp.zeros(())), 4), NOISE),
            r"policy must return an array of shape \(2,\), got tuple",
        ),
        (
            lambda: loss(NOISE, reverse_sample(SCHEDULE, 4, proposal=lambda obs, key: jnp.zeros(2))),
            "proposal must return",
        ),
        (
            lambda: loss(
                NOISE, reverse_sample(SCHEDULE, 4, proposal=lambda obs, key: (jnp.zeros(2), jnp.zeros(1)))
            ),
            "proposal's log-density must return a scalar",
        ),
    ],
)
def test_other_functions(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def likelihood(model, example, key):
    return -model * jnp.sum(example.action**2)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: clipped(gaussian_log_likelihood, eps=0.2),
            r"log_ratio must be a log-ratio, such as log_ratio\(log_likelihood\), "
            "got <function gaussian_log_likelihood .*>.",
        ),
        (
            lambda: clipped(likelihood, eps=0.2),
            "log_ratio must be a log-ratio, .* got <function likelihood .*>.",
        ),
        (lambda: clipped(matching(NOISE), eps=0.2), "log_ratio must be a log-ratio, .* got <function .*>."),
        (
            lambda: clipped(log_ratio, eps=0.2),
            "log_ratio must be a log-ratio, .* got <function log_ratio .*>.",
        ),
        *(
            (
                lambda make=make: make(gaussian_log_ratio),
                "log_likelihood must be a log-likelihood, such as gaussian_log_likelihood, got a LogRatio.",
            )
            for make in (log_ratio, LogRatio, lambda ratio: log_ratio(ratio, clip=1.0))
        ),
        (
            lambda: LogRatio(likelihood, 1.0),
            r"combine must be a function \(new, old\) -> log-ratio, got 1.0.",
        ),
        (
            lambda: flow_matching_log_ratio(likelihood).log_likelihood(1.0, example(key=KEY), KEY),
            r"loss must return \(scalar, metrics\), with a dict of metrics, got a ArrayImpl\..*",
        ),
        (
            lambda: log_ratio(matching(NOISE))(FIELD, example(log_prob=jnp.zeros(())), KEY),
            r"the log-likelihood must be an array, got \(.*\).",
        ),
    ],
)
def test_log_ratios_and_log_likelihoods_are_told_apart(make, message, unchecked_types):
    with pytest.raises(ValueError, match=re.compile(f"^{message}$", re.DOTALL)):
        make()


@pytest.mark.parametrize(
    ("links", "message"),
    [
        ((NOISE, REVERSE, smoothed_score(q, 1.0), REVERSE, boltzmann(q, 1.0)), "must come before the link"),
        ((NOISE, REVERSE, boltzmann(q, 1.0), posterior_mean(), q_score(q, 1.0)), "it would replace it"),
        ((NOISE, q_score(q, 1.0), q_score(q, 1.0)), "it would replace it"),
        ((FOUR, report(z=q), report(z=q), NOISE), "each name once, z was reported before"),
    ],
)
def test_no_link_undoes_another(links, message):
    with pytest.raises(ValueError, match=message):
        loss(*links)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: report(), "report must be given at least one function"),
        (lambda: report(ess=q), "report must not be given the name ess"),
        (lambda: tilt(q, 1.0, floor=-0.5), "floor needs shape linear, got -0.5 for exponential"),
        (lambda: gempo(weight="square", floor=jnp.asarray(0.5)), "floor needs weight linear"),
        (lambda: gempo(candidates=4), r"target_kl must be a finite number in \(0, 1.38629\), got 2.0"),
        (lambda: gempo(temperature_learning_rate=0.0), "temperature_learning_rate must be"),
        (lambda: dpmd(noise_learning_rate=0.0), "noise_learning_rate must be"),
        (
            lambda: tuned_noise(1.0, std=0.1, target_entropy_scale=1.0, learning_rate=0.0),
            "learning_rate must be",
        ),
        (lambda: idem(temperature=0.0), "temperature must be a finite number"),
        (lambda: dps(density_steps=0), "density_steps must be an integer of at least 1"),
        (lambda: maxentdp(soft=False, density_draws=0), "density_draws must be an integer of at least 1"),
        (lambda: sdac(samples=10**30), "samples must be an integer from 2 to 2147483647"),
        (lambda: _checks.one_of("proposal", jnp.zeros(2), ("a", "b")), "proposal must be one of a, b; got"),
    ],
)
def test_construction(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_an_audit_of_a_field_of_modes():
    with pytest.raises(ValueError, match="ddiffpg trains a field of more than the observation"):
        network({"ddiffpg": ddiffpg(), "other": ddiffpg()}, Spec("task", 3, 2, 10), jax.random.key(0))
