"""The benchmark of operations counts what runs in the body of the loop that learns."""

import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest


@pytest.fixture
def operations(monkeypatch):
    """The module of the benchmark."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent.parent / "benchmarks"))
    yield importlib.import_module("operations")
    for name in ("operations", "command_line"):
        sys.modules.pop(name, None)


PROGRAM = """HloModule jit_step

%fused_computation (param_0: f32[4]) -> f32[4] {
  %param_0 = f32[4]{0} parameter(0)
  ROOT %add.1 = f32[4]{0} add(%param_0, %param_0)
}

%with_bias (a: f32[4], b: f32[4]) -> f32[4] {
  %a = f32[4]{0} parameter(0)
  %dot.7 = f32[4]{0} dot(%a, %a), lhs_contracting_dims={0}
  ROOT %add.7 = f32[4]{0} add(%dot.7, %a)
}

%parallel (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %loop_fusion = f32[4]{0} fusion(%p), kind=kLoop, calls=%fused_computation
}

%bits (arg: (s32[], u32[4])) -> (s32[], u32[4]) {
  %arg = (s32[], u32[4]{0}) parameter(0)
  %c.1 = u32[4]{0} copy(%arg), metadata={op_name="x"}
  ROOT %t = (s32[], u32[4]{0}) tuple(%c.1)
}

%learning (arg: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg.2 = (s32[], /*index=1*/f32[4]{0}) parameter(0)
  %x = f32[4]{0} get-tuple-element(%arg.2), index=1
  %called = f32[4]{0} call(%x), to_apply=%parallel
  %dot.1 = f32[4]{0} dot(%x, %called), lhs_contracting_dims={0}
  %library = f32[4]{0} custom-call(%x), custom_call_target="__cublas$gemm"
  %fused_product = f32[4]{0} fusion(%x, %library), kind=kCustom, calls=%with_bias
  %inner = (s32[], u32[4]{0}) while(%arg.2), condition=%always, body=%bits
  ROOT %out = (s32[], f32[4]{0}) tuple(%x, %dot.1)
}

%acting (arg.3: (s32[], f32[4])) -> (s32[], f32[4]) {
  %arg.4 = (s32[], f32[4]{0}) parameter(0)
  %dot.2 = f32[4]{0} dot(%arg.4, %arg.4), lhs_contracting_dims={0}
  ROOT %loop.3 = (s32[], f32[4]{0}) while(%dot.2), condition=%always, body=%learning
}

ENTRY %main (Arg_0: f32[4]) -> f32[4] {
  %Arg_0 = f32[4]{0} parameter(0)
  ROOT %while.9 = (s32[], f32[4]{0}) while(%Arg_0), condition=%always, body=%acting
}
"""


def test_counts_worked_by_hand(operations):
    """A fusion that is called, three products, a loop and its copy; not the loop around, which has one product."""
    assert operations.of_update(PROGRAM) == {"fusions": 1, "loops": 1, "dots": 3, "others": 1}


def test_a_compiled_program_is_read(operations):
    def step(x, _):
        y = x @ x
        return jnp.tanh(y @ x), jax.lax.fori_loop(0, 7, lambda _, z: jnp.sin(z), y)[0, 0]

    run = jax.jit(lambda x: jax.lax.scan(step, x, None, length=5))
    found = operations.of_update(run.lower(jnp.ones((64, 64))).compile().as_text())
    assert found["dots"] == 2 and found["loops"] == 1 and found["others"] + found["fusions"] >= 2
