"""What does not fit into memory is refused before it is compiled, with what would."""

import re
from types import SimpleNamespace
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from toy_commands import toy, toy_program

from dpolicy.algorithms import bc, sac
from dpolicy.envs import make
from dpolicy.train import memory, off_policy, offline, starting, train_loop
from dpolicy.train.memory import check_compiled, check_memory, memory_limit, size_of
from dpolicy.train.replay import Replay


class Experience(eqx.Module):
    replay: Any


class State(eqx.Module):
    """Shapes of a state of 1,000 bytes a seed, and of a replay with rows of 8 bytes."""

    weights: Any
    experience: Any

    def __init__(self, seeds, rows=None):
        kept = 250 if rows is None else 248  # the ring's cursor and size are two more numbers
        self.weights = jax.ShapeDtypeStruct((seeds, kept), jnp.float32)
        self.experience = None
        if rows is not None:
            ring = jax.vmap(lambda _: Replay.start(jnp.zeros(2), rows))
            self.experience = Experience(jax.eval_shape(ring, jnp.zeros(seeds)))


@pytest.mark.parametrize(
    ("shapes", "limit", "sentence"),
    [
        (State(4), 4000, None),
        (
            State(4),
            3999,
            "the state of this run takes 4 kB (4 x 1 kB, one per seed), more than the 4 kB of memory there is: at most "
            "3 of the 4 seeds would fit.",
        ),
        (State(1), 999, "fewer environments or frames, or smaller networks, may fit."),
        (State(2), 999, "fewer environments or frames, or smaller networks, may fit."),
        (State(1, 1000), 9000, None),
        (State(1, 10_000), 9999, "at most a replay_size of 1,100 would fit."),
        (State(2, 10_000), 99_999, "at most 1 of the 2 seeds or a replay_size of 6,100 would fit."),
        (State(4), None, None),
    ],
)
def test_a_state_is_compared_with_the_memory_there_is(monkeypatch, shapes, limit, sentence):
    monkeypatch.setattr(memory, "memory_limit", lambda: limit)
    if sentence is None:
        return check_memory(shapes)
    with pytest.raises(ValueError, match=re.escape(sentence)):
        check_memory(shapes)


def test_what_would_fit_fits(monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda: 99_999)
    check_memory(State(2, 6100))
    check_memory(State(1, 10_000))


def test_the_machine_has_memory_and_a_container_less(monkeypatch, tmp_path):
    whole = memory_limit()
    assert 2**28 < whole < 2**50
    files = [tmp_path / name for name in ("max", "limit", "missing")]
    files[0].write_text("max\n")
    files[1].write_text(f"{whole // 3}\n")
    monkeypatch.setattr(memory, "_LIMITS", files)
    assert memory_limit() == whole // 3


def test_an_accelerators_memory_is_its_own(monkeypatch):
    gpu = SimpleNamespace(platform="gpu", memory_stats=lambda: {"bytes_limit": 12345})
    silent = SimpleNamespace(platform="tpu", memory_stats=lambda: None)
    for device, expected in ((gpu, 12345), (silent, None)):
        monkeypatch.setattr(jax, "devices", lambda device=device: [device])
        assert memory_limit() == expected


def test_what_a_chunk_needs_beside_its_State(monkeypatch):
    step = (
        jax.jit(lambda x: jnp.sum(jnp.sort(x[:, None] * x[None], axis=0)[0])).lower(jnp.zeros(500)).compile()
    )
    check_compiled(step)
    check_compiled(SimpleNamespace(memory_analysis=lambda: None))
    monkeypatch.setattr(memory, "memory_limit", lambda: 500_000)
    with pytest.raises(
        ValueError, match=r"one chunk of this run takes [\d.]+ MB to compute beside the 2 kB of its"
    ):
        check_compiled(step)


def test_exact_data_are_compared_with_the_memory_there_is(monkeypatch):
    monkeypatch.setattr(memory, "memory_limit", lambda: 24_000)
    sentence = "data_size must fit into the 24 kB of memory there is, at most 1,000, got 1,001."
    with pytest.raises(ValueError, match=re.escape(sentence)):
        offline(bc(), make("bandit/linear"), data_size=1_001)
    offline(bc(), make("bandit/linear"), data_size=1_000)


def test_size_counts_bytes():
    assert size_of({"a": jnp.zeros((3, 2)), "b": jnp.zeros(5, jnp.int8), "c": jnp.zeros((0, 4))}) == 29


def test_the_loop_asks_before_it_compiles(monkeypatch):
    program = toy_program(toy(), make("probe/action"))
    monkeypatch.setattr(memory, "memory_limit", lambda: 10)
    monkeypatch.setattr(starting, "compiled", lambda traced: pytest.fail("it was compiled"))
    with pytest.raises(ValueError, match="the state of this run takes"):
        train_loop(program, steps=20, progress=False)


def test_a_replay_is_as_large_as_an_index_may_be():
    with pytest.raises(
        ValueError, match="replay_size must be an integer from 1 to 2147483647, got 3000000000"
    ):
        off_policy(sac(), make("multigoal"), replay_size=3_000_000_000)
