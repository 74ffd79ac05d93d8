"""Every default beside its source: a value that changes, and a setting that is new, must be told to the tables here.

The tables are text files in `defaults/`: a heading in brackets, then a row for each setting with its value and source.
"""

import ast
import importlib
import inspect
import itertools
import re
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpolicy import actor_critic, field_policy, proximal
from dpolicy.algorithms import ALGORITHMS
from dpolicy.blocks import (
    SAMPLERS,
    SCHEDULES,
    consistency_policy,
    deterministic_policy,
    guided_policy,
    in_sample_critics,
    in_support_critics,
    mirror_descent,
    noisy_best,
    optimised_actions,
    pathwise,
    step_critics,
    twin_delayed,
)
from dpolicy.envs.protocol import Spec
from dpolicy.fields import (
    EMBEDDINGS,
    CosineVP,
    DiscreteVP,
    LinearVP,
    RectifiedFlow,
    Trigonometric,
    VarianceExploding,
    cosine_betas,
    linear_betas,
)
from dpolicy.modes import mode_discovery, novelty_reward
from dpolicy.networks import gaussian_policy
from dpolicy.optimisers import adam
from dpolicy.samplers import ddim, ddpm, dpm_solver, ode, sde
from dpolicy.train import PROGRAMS

BLOCKS = {
    block.__name__: block
    for block in (
        field_policy,
        actor_critic,
        proximal,
        gaussian_policy,
        deterministic_policy,
        noisy_best,
        pathwise,
        consistency_policy,
        guided_policy,
        in_sample_critics,
        in_support_critics,
        mirror_descent,
        optimised_actions,
        twin_delayed,
        mode_discovery,
        novelty_reward,
        step_critics,
    )
} | PROGRAMS


def lines_of(name):
    text = (Path(__file__).parent / "defaults" / f"{name}.txt").read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def read(name):
    """heading -> setting -> value, of which each has a source."""
    tables, rows = {}, {}
    for line in lines_of(name):
        if heading := re.fullmatch(r"\[(.+)\]", line):
            assert heading.group(1) not in tables
            rows = tables[heading.group(1)] = {}
        else:
            setting, value, source = re.split(r" {2,}", line, maxsplit=2)
            assert source.strip() and setting not in rows, line
            rows[setting] = ast.literal_eval(value)
    return tables


TABLES = {name: read(name) for name in ("blocks", "off_policy", "on_policy")}
RECIPES = TABLES["off_policy"] | TABLES["on_policy"]


def defaults(function):
    """What there is to set, functions left out: they are the method's own."""
    parameters = inspect.signature(function).parameters.values()
    given = {p.name: p.default for p in parameters if p.default is not p.empty}
    return {name: value for name, value in given.items() if not inspect.isfunction(value)}


@pytest.mark.parametrize("name", BLOCKS)
def test_defaults_of_blocks_and_programs(name):
    assert defaults(BLOCKS[name]) == TABLES["blocks"][name]


@pytest.mark.parametrize("heading", RECIPES, ids=lambda heading: heading.split(":")[0])
def test_defaults_of_recipes(heading):
    """Its own rows, else those of the first of its blocks that has the setting."""
    name, blocks = heading.split(": ")
    found, expected = defaults(ALGORITHMS[name].recipe), {}
    for block in reversed(blocks.split()):
        settings = TABLES["blocks"][block]
        expected |= {setting: settings[setting] for setting in BLOCKS[block].tunable}
    expected |= RECIPES[heading]
    assert set(RECIPES[heading]) <= set(found) <= set(expected)
    assert found == {setting: expected[setting] for setting in found}


# What a method fixes of its blocks: a setting of that name would be shown in the help, and have no effect.
FLOW = {"schedule", "prediction", "sampler", "embedding"}
FIXED = {"dppo": FLOW, "fpo": FLOW, "fpopp": FLOW, "genpo": FLOW, "sac": {"critic_activation"}}


@pytest.mark.parametrize("name", FIXED)
def test_what_a_method_fixes_is_no_setting_of_it(name):
    blocks = {setting for block in BLOCKS.values() for setting in getattr(block, "tunable", ())}
    assert FIXED[name] <= blocks
    assert not FIXED[name] & set(defaults(ALGORITHMS[name].recipe))


# What concerns running and not learning or its report.
ELSEWHERE = {"interval_text", "load_policy", "policy_of", "read_history", "train_config", "train_loop"}


# Where classes are records, which functions fill in.
OF_FUNCTIONS = ("losses", "samplers", "optimisers", "learning", "blocks", "train")


def public(module):
    """The functions and classes that a module or package offers and that have defaults."""
    found = {}
    for name, value in vars(importlib.import_module(f"dpolicy.{module}")).items():
        where = getattr(value, "__module__", None) or ""
        own = callable(value) and re.match(rf"dpolicy\.{module}\b", where)
        left_out = (
            name[0] == "_"
            or name in (*BLOCKS, *ELSEWHERE)
            or (inspect.isclass(value) and module in OF_FUNCTIONS)
        )
        if own and not left_out and (settings := defaults(value)):
            found[name] = settings
    return found


def read_calls(name):
    """heading -> function -> setting -> value, of functions that are written as calls."""
    tables, rows = {}, {}
    for line in lines_of(name):
        if heading := re.fullmatch(r"\[(.+)\]", line):
            rows = tables.setdefault(heading.group(1), {})
        else:
            written, _source = re.split(r" {2,}", line, maxsplit=1)
            call = ast.parse(written, mode="eval").body
            rows[call.func.id] = {word.arg: ast.literal_eval(word.value) for word in call.keywords}
    return tables


LIBRARY = read_calls("library")


@pytest.mark.parametrize("module", LIBRARY)
def test_defaults_of_the_library(module):
    assert public(module) == LIBRARY[module]


def networks(state):
    """The parts of a state that are told of in networks.txt."""
    if "policy" in state:
        parts = {"actor": state.policy, "critic": state.value}
        return parts | ({"flow": state.average} if "flow" in state else {})
    if "critic" not in state and "critics" not in state:
        return {"actor": state.average}
    if "energy" in state:
        return {"behaviour": state.behaviour, "critic": state.critic, "energy": state.energy}
    return {"actor": state.actor, "critic": state.critic if "critic" in state else state.critics}


def count(layers):
    """Parameters of networks written as in networks.txt."""
    if " | " in layers:
        return sum(map(count, layers.split(" | ")))
    if " + " in layers:
        return sum(int(part) if part.isdigit() else count(part) for part in layers.split(" + "))
    copies, _, chain = layers.rpartition(" x ")
    widths = list(map(int, chain.split("-")))
    return int(copies or 1) * sum((a + 1) * b for a, b in itertools.pairwise(widths))


ROWS = [re.split(r" {2,}", line) for line in lines_of("networks")]


@pytest.mark.parametrize("name", ALGORITHMS)
def test_networks_of_recipes(name):
    spec = Spec("test", 17, 6, 1)
    state = jax.eval_shape(lambda key: ALGORITHMS[name].recipe().init(key, spec), jax.random.key(0))
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree) if leaf.dtype == jnp.float32)
    found = {part: size(network) for part, network in networks(state).items()}
    assert found == {part: count(layers) for recipe, part, layers, _ in ROWS if recipe == name}


def test_adam_is_that_of_the_papers():
    """Decays 0.9 and 0.999, eps 1e-8, by two steps on gradients as small as eps."""
    optimiser = adam(0.1)
    first, second = 0.0, 0.0
    parameter = jnp.zeros(())
    state = optimiser.init(parameter)
    for step, gradient in enumerate((2e-8, -1e-8), 1):
        update, state = optimiser.update(jnp.asarray(gradient), state)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        direction = first / (1 - 0.9**step) / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
        np.testing.assert_allclose(update, -0.1 * direction, rtol=1e-4)


def test_schedules_and_samplers_by_name():
    """What the settings "schedule", "sampler" and "embedding" stand for."""
    same = lambda a, b: bool(eqx.tree_equal(a, b))
    relax = DiscreteVP(linear_betas(20, start=0.8 * 1e-4, end=0.8 * 0.999))  # 0.8 linspace(1e-4, 0.999, 20)
    schedules = {
        "rectified_flow": RectifiedFlow(),
        "cosine": CosineVP(),
        "discrete_cosine": DiscreteVP(cosine_betas(20)),
        "linear": LinearVP(),
        "vp": LinearVP(0.1, 10.0, t_min=0.0),
        "discrete_linear": relax,
        "variance_exploding": VarianceExploding(),
        "trigonometric": Trigonometric(),
    }
    assert set(schedules) == set(SCHEDULES)
    assert all(same(SCHEDULES[name](20), schedule) for name, schedule in schedules.items())
    samplers = {
        "euler": ode(steps=7, clip=0.5),
        "heun": ode(steps=7, solver="heun", clip=0.5),
        "sde": sde(steps=7, clip=0.5),
        "ddpm": ddpm(steps=7, clip=0.5),
        "ddpm_posterior": ddpm(steps=7, variance="posterior", clip=0.5),
        "ddim": ddim(steps=7, clip=0.5),
        "dpm_solver": dpm_solver(steps=7, clip=0.5),
    }
    assert set(samplers) == set(SAMPLERS)
    assert all(same(SAMPLERS[name](7, 0.5), sampler) for name, sampler in samplers.items())
    key = jax.random.key(0)
    sizes = {name: make(key)(jnp.asarray(0.5)).shape for name, make in EMBEDDINGS.items()}
    widths = {
        "fourier_mlp": 64,
        "fourier": 64,
        "random_fourier": 64,
        "fixed_fourier": 32,
        "sinusoidal": 16,
        "sinusoidal_mlp": 16,
        "cos_sin": 8,
        "raw": 1,
    }
    assert sizes == {name: (width,) for name, width in widths.items()}


def test_no_table_is_left_over():
    assert set(TABLES["blocks"]) == set(BLOCKS)
    assert sorted(heading.split(":")[0] for heading in RECIPES) == sorted(ALGORITHMS)
