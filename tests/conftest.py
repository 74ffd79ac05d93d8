"""Shared fixtures. Shapes are checked at run time: see `addopts` in pyproject.toml."""

import os

# Compiling is most of what these tests do; the optimiser of the CPU backend doubles it and they run for milliseconds.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_backend_optimization_level=0"

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def x64():
    """Double precision for one test: what is compared with analytic truth."""
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", False)


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
