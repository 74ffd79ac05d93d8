"""Whole episodes of a policy: their returns and lengths."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dpolicy import _checks
from dpolicy._types import Action, Key, Observation
from dpolicy.envs.protocol import Environment, check_environment
from dpolicy.envs.stepping import decided, start, take

AT_ONCE = 1024  # episodes; more are played in turns, so that memory does not grow with their number


class Played(NamedTuple):
    """Episodes: undiscounted return, length, whether a diverged simulation ended it, and whether the task did."""

    returns: Float[Array, "*batch num"]
    lengths: Int[Array, "*batch num"]
    diverged: Bool[Array, "*batch num"]
    terminated: Bool[Array, "*batch num"]


def _together(
    env: Environment, policy: Callable[[Observation, Key], Action], key: Key, num: int, max_steps: int
) -> Played:
    """One episode in each of `num` copies, stepped together until the last one ends."""
    reset_key, run_key = jax.random.split(key)
    state, obs = jax.vmap(partial(start, env))(jax.random.split(reset_key, num))
    no = jnp.zeros(num, bool)
    none = Played(jnp.zeros(num, obs.dtype), jnp.zeros(num, jnp.int32), no, no)

    def running(carry: Any) -> Bool[Array, ""]:
        *_, alive, count = carry
        return jnp.any(alive) & (count < max_steps)

    def one(carry: Any) -> Any:
        state, obs, (returns, lengths, diverged, terminated), alive, count = carry
        act_key, step_key = jax.random.split(jax.random.fold_in(run_key, count))
        actions = jax.vmap(partial(decided, policy, env))(obs, jax.random.split(act_key, num))
        taken = jax.vmap(partial(take, env))(state, obs, actions, jax.random.split(step_key, num))
        played = Played(
            returns + jnp.where(alive, taken.reward, 0.0),
            lengths + alive,
            diverged | (alive & taken.diverged),
            terminated | (alive & taken.terminated & ~taken.diverged),
        )
        return taken.state, taken.obs, played, alive & ~taken.terminated, count + 1

    return jax.lax.while_loop(running, one, (state, obs, none, jnp.ones(num, bool), 0))[2]


def play_episodes(
    env: Environment, policy: Callable[[Observation, Key], Action], key: Key, num: int, max_steps: int
) -> Played:
    """`evaluate_episodes`, and which episodes diverged."""
    check_environment("env", env)
    _checks.function("policy", policy, "(obs, key) -> action")
    _checks.count("num", num)
    _checks.count("max_steps", max_steps)
    _checks.one_key(key)
    turns = -(-num // AT_ONCE)
    if turns == 1:
        return _together(env, policy, key, num, max_steps)
    size = -(-num // turns)
    keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, jnp.arange(turns))
    played = jax.lax.map(lambda key: _together(env, policy, key, size, max_steps), keys)
    # The turns are equally large; what the last one has too many is left out.
    return Played(*(leaf.reshape(-1)[:num] for leaf in played))


def evaluate_episodes(
    env: Environment,
    policy: Callable[[Observation, Key], Action],
    key: Key,
    num: int,
    max_steps: int,
) -> tuple[Float[Array, " num"], Int[Array, " num"]]:
    """Undiscounted returns and lengths of `num` episodes, one per copy of the environment.

    Exactly the first episode of each copy counts, so short (often bad) episodes are not over-represented. The loop
    ends when the last episode does; it has no reverse-mode derivative. More than 1024 are played in turns of equal
    size, so that memory does not grow with their number.

    Args:
        env: The environment.
        policy: `(obs, key) -> action` for ONE observation.
        key: Random key.
        num: Episodes.
        max_steps: Steps after which an episode is cut.

    Raises:
        ValueError: For `num` or `max_steps` below 1; and for an environment or a policy that returns something of
            another size or type than it promises.
    """
    played = play_episodes(env, policy, key, num, max_steps)
    return played.returns, played.lengths
