"""A batch of environments with time limits and autoreset."""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dpolicy import _checks
from dpolicy._types import Key, Keys
from dpolicy.envs.protocol import Environment, check_environment
from dpolicy.envs.stepping import start, take

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
        late: The episode began after its clock, as `random_start` has it: its return is not one of a whole episode.
        diverged: The episode terminated with numbers that are not finite, as a simulation does that has diverged;
            `next_obs` is the observation before, and the reward zero.
    """

    next_obs: Float[Array, "*batch n o"]
    reward: Float[Array, "*batch n"]
    terminated: Bool[Array, "*batch n"]
    truncated: Bool[Array, "*batch n"]
    episode_return: Float[Array, "*batch n"]
    episode_length: Int[Array, "*batch n"]
    late: Bool[Array, "*batch n"]
    diverged: Bool[Array, "*batch n"]

    @property
    def done(self) -> Bool[Array, "*batch n"]:
        """Whether the episode ended at this step, for either reason."""
        return self.terminated | self.truncated

    @property
    def whole(self) -> Bool[Array, "*batch n"]:
        """Whether an episode ended at this step that had begun at the start of its clock."""
        return self.done & ~self.late


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
        ValueError: For a count below 1 or an unknown `resets`; and, by `init` and `step`, for an environment whose
            `reset` or `step` returns something of another size or type than it promises.
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
        check_environment("env", env)
        _checks.count("num", num)
        _checks.boolean("random_start", random_start)
        _checks.one_of("resets", resets, RESETS)
        _checks.count("pool_size", pool_size)
        self.env = env
        self.num = num
        self.resets = resets
        self.pool_size = pool_size
        self.random_start = random_start

    def _draw(self, keys: Keys) -> Any:
        return jax.vmap(partial(start, self.env))(keys)

    def _starts(self, pool: Any, keys: Keys) -> Any:
        """A start for each environment, from its key."""
        if self.resets == "fresh":
            return self._draw(keys)
        # The remainder of 32 bits: a start is likelier than another by no more than pool_size / 2^32.
        index = jax.vmap(jax.random.bits)(keys) % self.pool_size
        return jax.tree.map(lambda leaf: leaf[index], pool)

    def init(self, key: Key) -> VectorState:
        """Start all environments."""
        pool_key, start_key, clock_key = jax.random.split(_checks.one_key(key), 3)
        pool = None if self.resets == "fresh" else self._draw(jax.random.split(pool_key, self.pool_size))
        env, obs = self._starts(pool, jax.random.split(start_key, self.num))
        zeros = jnp.zeros(self.num, jnp.int32)
        limit = self.env.spec.time_limit
        steps = (
            jax.random.randint(clock_key, (self.num,), 0, limit, jnp.int32) if self.random_start else zeros
        )
        return VectorState(env, obs, steps, zeros, jnp.zeros(self.num, obs.dtype), pool)

    def step(self, state: VectorState, actions: Float[Array, "n a"], key: Key) -> tuple[VectorState, Step]:
        """Step every environment; those whose episode ends are reset, and the returned state is past the reset."""
        _checks.instance("state", state, VectorState, "a VectorState, as init gives it")
        spec = self.env.spec
        for name, found, size in (
            ("actions", actions, spec.action_size),
            ("state.obs", state.obs, spec.obs_size),
        ):
            if getattr(found, "shape", None) != (self.num, size):
                raise ValueError(
                    f"{name} must be an array of shape {(self.num, size)} for {self.num} copies of {spec.name}, got "
                    f"{getattr(found, 'shape', None) or type(found).__name__}."
                )
        step_keys, reset_keys = jax.random.split(_checks.one_key(key), (2, self.num))
        taken = jax.vmap(partial(take, self.env))(state.env, state.obs, actions, step_keys)
        steps = state.steps + 1
        # Both at once would ask to bootstrap from a state that has ended: the task's end counts.
        truncated = (steps >= self.env.spec.time_limit) & ~taken.terminated
        done = taken.terminated | truncated
        result = Step(
            next_obs=taken.obs,
            reward=taken.reward,
            terminated=taken.terminated,
            truncated=truncated,
            episode_return=state.returns + taken.reward,
            episode_length=state.lengths + 1,
            # The clock is ahead of the steps that were taken where it began at a random time.
            late=state.steps > state.lengths,
            diverged=taken.diverged,
        )
        env, obs = _where(done, self._starts(state.pool, reset_keys), (taken.state, taken.obs))
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
        keys = jax.random.split(_checks.one_key(key), self.pool_size)
        return eqx.tree_at(lambda s: s.pool, state, self._draw(keys))
