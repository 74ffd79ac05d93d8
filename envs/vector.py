"""A batch of environments with time limits and autoreset, and whole-episode evaluation."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation
from dpolicy.envs.protocol import Environment

RESETS = ("fresh", "pool")


class VectorState(eqx.Module):
    """The running episodes.

    Attributes:
        env: States of the environments, every leaf `[n, ...]`.
        obs: What the policy acts on next: after an episode's end the first observation of the next one.
        steps: The clock that the time limit reads. Starts anywhere under `random_start`.
        lengths: Steps taken in the running episode.
        returns: Undiscounted sum of its rewards.
        pool: Pre-drawn `(states, observations)` to reset to, or None where every reset is drawn afresh.
    """

    env: Any
    obs: Float[Array, "*batch n o"]
    steps: Int[Array, "*batch n"]
    lengths: Int[Array, "*batch n"]
    returns: Float[Array, "*batch n"]
    pool: Any


class Step(eqx.Module):
    """What one step of all environments showed.

    Attributes:
        next_obs: The TRUE successor; on the last step of an episode the terminal observation, before the reset.
        reward: Rewards.
        terminated: The task ended: do not bootstrap.
        truncated: The time limit cut the episode: bootstrap from `next_obs`. Never set together with `terminated`.
        episode_return: Undiscounted return of the episode so far; that of the finished episode where done.
        episode_length: Its number of steps so far, likewise.
    """

    next_obs: Float[Array, "*batch n o"]
    reward: Float[Array, "*batch n"]
    terminated: Bool[Array, "*batch n"]
    truncated: Bool[Array, "*batch n"]
    episode_return: Float[Array, "*batch n"]
    episode_length: Int[Array, "*batch n"]

    @property
    def done(self) -> Bool[Array, "*batch n"]:
        """Whether the episode ended at this step, for either reason."""
        return self.terminated | self.truncated


def _where(mask: Bool[Array, " n"], new: Any, old: Any) -> Any:
    """Row by row `new` where the mask is set and `old` elsewhere, for pytrees with leading axis n."""
    pick = lambda a, b: jnp.where(mask.reshape(mask.shape + (1,) * (b.ndim - 1)), a, b)
    return jax.tree.map(pick, new, old)


class Vector(eqx.Module):
    """`num` copies of an environment, stepped together, reset on the spot when an episode ends.

    Args:
        env: The environment.
        num: How many copies.
        resets: "fresh" draws a new start for every reset, at the price of one reset per environment and step. "pool"
            picks one of `pool_size` pre-drawn starts, which is as cheap as no reset (measured with rigid-body
            simulators); call `refresh` now and then to redraw them.
        pool_size: Starts in the pool.
        random_start: Start every clock at a uniformly random time, so that the time limits of the environments
            do not all fall on the same step. The first episodes are cut short by it.

    Raises:
        ValueError: for a count below 1 or an unknown `resets`.
    """

    env: Environment
    num: int = eqx.field(static=True)
    resets: str = eqx.field(static=True)
    pool_size: int = eqx.field(static=True)
    random_start: bool = eqx.field(static=True)

    def __init__(
        self,
        env: Environment,
        num: int,
        *,
        resets: str = "fresh",
        pool_size: int = 64,
        random_start: bool = False,
    ):
        _checks.instance("env", env, Environment, "an Environment")
        _checks.integer("num", num)
        _checks.boolean("random_start", random_start)
        _checks.one_of("resets", resets, RESETS)
        _checks.integer("pool_size", pool_size)
        self.env = env
        self.num = num
        self.resets = resets
        self.pool_size = pool_size
        self.random_start = random_start

    def _draw(self, key: Key, num: int) -> Any:
        return jax.vmap(self.env.reset)(jax.random.split(key, num))

    def _starts(self, pool: Any, key: Key) -> Any:
        if self.resets == "fresh":
            return self._draw(key, self.num)
        index = jax.random.randint(key, (self.num,), 0, self.pool_size)
        return jax.tree.map(lambda leaf: leaf[index], pool)

    def init(self, key: Key) -> VectorState:
        """Start all environments."""
        pool_key, start_key, clock_key = jax.random.split(key, 3)
        pool = None if self.resets == "fresh" else self._draw(pool_key, self.pool_size)
        env, obs = self._starts(pool, start_key)
        zeros = jnp.zeros(self.num, jnp.int32)
        limit = self.env.spec.time_limit
        steps = (
            jax.random.randint(clock_key, (self.num,), 0, limit, jnp.int32) if self.random_start else zeros
        )
        return VectorState(env, obs, steps, zeros, jnp.zeros(self.num, obs.dtype), pool)

    def step(self, state: VectorState, actions: Float[Array, "n a"], key: Key) -> tuple[VectorState, Step]:
        """Step every environment; those whose episode ends are reset, and the returned state is past the reset."""
        step_key, reset_key = jax.random.split(key)
        env, next_obs, reward, terminated = jax.vmap(self.env.step)(
            state.env, actions, jax.random.split(step_key, self.num)
        )
        steps = state.steps + 1
        truncated = (steps >= self.env.spec.time_limit) & ~terminated
        done = terminated | truncated
        result = Step(next_obs, reward, terminated, truncated, state.returns + reward, state.lengths + 1)
        env, obs = _where(done, self._starts(state.pool, reset_key), (env, next_obs))
        return (
            VectorState(
                env=env,
                obs=obs,
                steps=jnp.where(done, 0, steps),
                lengths=jnp.where(done, 0, result.episode_length),
                returns=jnp.where(done, 0.0, result.episode_return),
                pool=state.pool,
            ),
            result,
        )

    def refresh(self, state: VectorState, key: Key) -> VectorState:
        """Redraw the pool of starts; does nothing where resets are fresh."""
        if self.resets == "fresh":
            return state
        return eqx.tree_at(lambda s: s.pool, state, self._draw(key, self.pool_size))


def evaluate_episodes(
    env: Environment,
    policy: Callable[[Observation, Key], Action],
    key: Key,
    num: int,
    max_steps: int,
) -> tuple[Float[Array, " num"], Int[Array, " num"]]:
    """Undiscounted returns and lengths of `num` episodes, one per copy of the environment.

    Exactly the first episode of each copy counts, so short (often bad) episodes are not over-represented. The loop
    ends when the last episode does; it has no reverse-mode derivative.

    Args:
        env: The environment.
        policy: `(obs, key) -> action` for ONE observation.
        key: Random key.
        num: Episodes.
        max_steps: Steps after which an episode is cut.

    Raises:
        ValueError: for `num` or `max_steps` below 1.
    """
    _checks.instance("env", env, Environment, "an Environment")
    _checks.function("policy", policy, "(obs, key) -> action")
    _checks.integer("num", num)
    _checks.integer("max_steps", max_steps)
    reset_key, run_key = jax.random.split(key)
    state, obs = jax.vmap(env.reset)(jax.random.split(reset_key, num))
    start = (state, obs, jnp.zeros(num, obs.dtype), jnp.zeros(num, jnp.int32), jnp.ones(num, bool), 0)

    def running(carry: Any) -> Bool[Array, ""]:
        *_, alive, count = carry
        return jnp.any(alive) & (count < max_steps)

    def one(carry: Any) -> Any:
        state, obs, returns, lengths, alive, count = carry
        act_key, step_key = jax.random.split(jax.random.fold_in(run_key, count))
        actions = jax.vmap(policy)(obs, jax.random.split(act_key, num))
        state, obs, reward, terminated = jax.vmap(env.step)(state, actions, jax.random.split(step_key, num))
        returns = returns + jnp.where(alive, reward, 0.0)
        return state, obs, returns, lengths + alive, alive & ~terminated, count + 1

    _, _, returns, lengths, _, _ = jax.lax.while_loop(running, one, start)
    return returns, lengths
