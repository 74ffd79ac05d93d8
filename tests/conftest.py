"""Shared fixtures. Shapes are checked at run time: see `addopts` in pyproject.toml."""

import gc
import os

from jaxlib.version import __version__ as jaxlib_version

# Compiling is most of what these tests do; the optimiser of the CPU backend doubles it and they run for milliseconds.
FLAGS = ["--xla_backend_optimization_level=0"]
# A flag that the backend does not know ends the process, and these are not promised; they more than halve what is left.
if tuple(map(int, jaxlib_version.split(".")[:2])) == (0, 10):
    FLAGS += [
        "--xla_llvm_disable_expensive_passes=true",
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_prefer_vector_width=128",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
# No test reads what another left in the user's folder, or leaves anything there, unless it is told to.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import jax
import jaxtyping
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# Tracing makes and drops millions of small objects, few of them in cycles: looking for those takes a tenth of the time.
gc.set_threshold(200_000, 50, 50)


@pytest.fixture
def x64():
    """Double precision for one test: what is compared with analytic truth."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


@pytest.fixture
def unchecked_types(monkeypatch):
    """What a user without the run-time checker of types sees."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.fixture
def getkey():
    """A function that returns a fresh key on every call."""
    state = {"key": jax.random.key(0)}

    def getkey():
        state["key"], key = jax.random.split(state["key"])
        return key

    return getkey


@pytest.fixture(autouse=True, scope="module")
def forget_compilations():
    """Modules share few compiled functions; kept for all of them they take gigabytes."""
    yield
    jax.clear_caches()
