"""Stand-ins for an algorithm and its training program, and the commands run on them."""

import json

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import dpolicy.algorithms
import dpolicy.plots
import dpolicy.presets
import dpolicy.reports
import dpolicy.train
from dpolicy import _checks
from dpolicy.algorithm import Algorithm
from dpolicy.cli import main
from dpolicy.presets import Preset
from dpolicy.train import Normaliser, Program, TrainState


def toy(
    *, temperature: float = 0.5, hidden: tuple[int, ...] = (8,), steps: int = 3, fail: bool = False
) -> Algorithm:
    """A stand-in: acts with a constant.

    Args:
        temperature: The constant; above zero.
        hidden: Widths.
        steps: Sampler steps.
        fail: Whether every seed fails in the second chunk.
    """
    _checks.positive("temperature", temperature)

    def init(key, spec):
        if 0 in hidden:
            raise ValueError(f"hidden must be positive, got {hidden}.")
        return {"constant": jnp.full(spec.action_size, temperature), "fail": jnp.asarray(fail)}

    def act(state, obs, key, mode):
        return (state["constant"] if mode == "evaluate" else -state["constant"]), {}

    return Algorithm(
        "toy", "off_policy", init, act, lambda state, batch, key: (state, {}), ("evaluate", "negative")
    )


def toy_program(
    algorithm: Algorithm, env: dpolicy.envs.Environment, *, chunk: int = 10, steps: int = 7
) -> Program:
    """A stand-in.

    Args:
        algorithm: What to train.
        env: Where.
        chunk: Steps of a chunk.
        steps: Another thing called steps.
    """

    def init(key):
        return TrainState(
            algorithm=algorithm.init(key, env.spec),
            normaliser=Normaliser.start(env.spec.obs_size),
            experience=None,
            key=key,
            steps=jnp.asarray(0, jnp.int32),
            alive=jnp.asarray(True),
            failed_at=jnp.asarray(-1, jnp.int32),
        )

    def step(state):
        steps = state.steps + chunk
        alive = ~(state.algorithm["fail"] & (steps > chunk))
        failed_at = jnp.where(state.alive & ~alive, steps, state.failed_at)
        state = eqx.tree_at(lambda s: (s.steps, s.alive, s.failed_at), state, (steps, alive, failed_at))
        data = jnp.sum(jax.random.key_data(state.key) % 7).astype(float)
        return state, {"evaluate/return": data + steps, "loss/actor": jnp.where(alive, data, jnp.nan)}

    return Program(init, step, chunk, algorithm)


ENTRY = dpolicy.algorithms.Entry(toy, "off_policy", "g|g", "r", "t", "s", "c", "sel", "arXiv 0")


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch, tmp_path):
    monkeypatch.setitem(dpolicy.algorithms.ALGORITHMS, "toy", ENTRY)
    monkeypatch.setitem(dpolicy.train.PROGRAMS, "off_policy", toy_program)
    preset = Preset({"temperature": 0.25, "chunk": 20, "steps": 60}, "a table")
    monkeypatch.setitem(dpolicy.presets.PRESETS, "toy", [("probe/action", preset)])
    monkeypatch.setattr(dpolicy.reports, "report_for", lambda env: None)
    monkeypatch.chdir(tmp_path)


def run(capsys, *words):
    code = main(words)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def config_of(capsys, *words):
    code, out, err = run(capsys, "train", "toy", *words, "--print-config")
    assert (code, err) == (0, "")
    return json.loads(out)


def mistake(capsys, *words, code=2):
    found, out, err = run(capsys, *words)
    assert found == code
    assert out == ""
    assert err.count("\n") == 1
    return err.rstrip("\n")
