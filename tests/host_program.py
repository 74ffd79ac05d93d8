"""A tiny stand-in for a training program; run as a script it trains and kills itself in the middle."""

import os
import signal
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import Array

from dpolicy.train.loop import Chunk, train_loop

SETTINGS = {"seeds": 3, "seed": 7, "steps": 60}
CONFIG = {"name": "toy", "widths": (4, 4)}


# Stand-ins for jax.random, whose generator would be most of the compile time of every test.
def draw(key: Array) -> Array:
    return jnp.sum(jax.random.key_data(key) % 1009) % 101 / 101.0


def advance(key: Array) -> Array:
    return jax.random.wrap_key_data(jax.random.key_data(key) * jnp.uint32(1664525) + jnp.uint32(1013904223))


class State(eqx.Module):
    weights: Array
    target: Array
    nothing: Array  # Orbax refuses arrays without elements
    half: Array
    doomed: Array
    key: Array
    steps: Array
    alive: Array
    failed_at: Array


class Toy(eqx.Module):
    """A noisy linear recursion with a slow copy; `doomed` seeds divide by zero at step 30."""

    doom: float = 0.0
    width: int = 4
    steps_per_call: int = 10
    warmup: int = 0

    def init(self, key: Array) -> State:
        weights = draw(key) * jnp.ones((self.width, self.width))
        return State(
            weights=weights,
            target=weights,
            nothing=jnp.zeros((0, 3)),
            half=jnp.ones(2, jnp.bfloat16),
            doomed=draw(key) < self.doom,
            key=advance(key),
            steps=jnp.asarray(self.warmup, jnp.int32),
            alive=jnp.asarray(True),
            failed_at=jnp.asarray(-1, jnp.int32),
        )

    def step(self, state: State) -> tuple[State, dict[str, Array]]:
        noise = draw(state.key) - 0.5
        state = eqx.tree_at(lambda s: s.key, state, advance(state.key))

        def one(state: State, _: None) -> tuple[State, Array]:
            weights = 0.5 * state.weights @ state.weights.T / (1.0 + jnp.sum(state.weights**2)) + noise
            weights = weights / jnp.where(state.doomed & (state.steps == 30), 0.0, 1.0)
            steps = state.steps + 1
            alive = state.alive & jnp.all(jnp.isfinite(weights))
            kept = jnp.where(alive, weights, state.weights)
            return State(
                weights=kept,
                target=0.9 * state.target + 0.1 * kept,
                nothing=state.nothing,
                half=state.half * jnp.bfloat16(1.01),
                doomed=state.doomed,
                key=state.key,
                steps=steps,
                alive=alive,
                failed_at=jnp.where(state.alive & ~alive, steps, state.failed_at),
            ), jnp.mean(weights)

        state, means = jax.lax.scan(one, state, None, length=self.steps_per_call)
        metrics = {
            "evaluate/return": jnp.sum(state.target),
            "loss/weights": jnp.mean(means),
            "train/return": jnp.where(state.steps > 20, jnp.mean(means**2), jnp.nan),
        }
        return state, metrics


def as_data(leaf: Array) -> Array:
    """A typed key's data; any other array itself."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def arrays(tree: object) -> list:
    """Every leaf as numpy, keys as their data."""
    return [jax.device_get(as_data(leaf)) for leaf in jax.tree.leaves(tree)]


if __name__ == "__main__":
    directory, kill_at = Path(sys.argv[1]), int(sys.argv[2])

    def kill(chunk: Chunk) -> None:
        if chunk.step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    train_loop(Toy(), directory=directory, config=CONFIG, resume=True, on_chunk=kill, **SETTINGS)
