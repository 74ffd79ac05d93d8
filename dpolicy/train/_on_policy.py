"""Rollout and update of an on-policy algorithm in one compiled program."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Key, Keys, Metrics, Number, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.envs import Environment, Step, Vector, VectorState
from dpolicy.train.evaluate import evaluation, of_data, of_experience, summarised
from dpolicy.train.normalise import Normaliser, RewardScale
from dpolicy.train.program import Program, TrainState, checked_parts, guard, spec_of


def on_policy(
    algorithm: Algorithm,
    env: Environment,
    *,
    num_envs: int = 256,
    rollout: int = 32,
    iterations_per_evaluation: int = 5,
    evaluation_episodes: int = 64,
    evaluation_modes: tuple[str, ...] = ("evaluate",),
    normalise_observations: bool = True,
    reward_scale: Number = 1.0,
    reward_discount: Number | None = None,
    resets: str = "fresh",
) -> Program:
    """Alternate rollouts of the current policy with its update.

    Observation statistics are frozen while a rollout is collected and learned from, and take in its observations
    after the update, so the first likelihood ratio of every update is 1.

    Args:
        algorithm: An on-policy algorithm.
        env: The environment; batched and reset here.
        num_envs: Environments stepped together.
        rollout: Steps per environment and iteration.
        iterations_per_evaluation: Iterations between two evaluations.
        evaluation_episodes: Episodes per evaluation, without exploration.
        evaluation_modes: How the policy acts in evaluation; further modes of the algorithm are reported beside
            "evaluate".
        normalise_observations: Whether the policy sees standardised observations.
        reward_scale: Factor on the rewards the algorithm learns from; reported returns are unscaled.
        reward_discount: Given, rewards are moreover divided by the running deviation of their return with this discount
            and bounded by 10 (DPPO); None for none.
        resets: "fresh" draws a new start at every reset; "pool" picks from pre-drawn ones (slow simulators).

    Raises:
        ValueError: For an algorithm of another family, one that needs observations as they are where they would be
            standardised, or a value out of its range.
    """
    algorithm = checked_parts(algorithm, env, "on_policy")
    spec_of(env, normalise_observations)
    _checks.integer("num_envs", num_envs)
    _checks.integer("rollout", rollout)
    _checks.integer("iterations_per_evaluation", iterations_per_evaluation)
    _checks.positive("reward_scale", reward_scale)
    if reward_discount is not None:
        _checks.fraction("reward_discount", reward_discount)
    chunk = num_envs * rollout * iterations_per_evaluation
    _checks.integer("num_envs * rollout * iterations_per_evaluation", chunk)
    loop = OnPolicyLoop(
        algorithm=algorithm,
        envs=Vector(env, num_envs, resets=resets, random_start=True),
        rollout=rollout,
        iterations=iterations_per_evaluation,
        normalise_observations=normalise_observations,
        reward_scale=reward_scale,
        reward_discount=reward_discount,
    )
    evaluate = evaluation(algorithm, env, evaluation_episodes, evaluation_modes)

    def step(state: TrainState) -> tuple[TrainState, Metrics]:
        return evaluate(*loop.chunk(state))

    return Program(loop.start, step, chunk, algorithm)


@dataclasses.dataclass(frozen=True)
class OnPolicyLoop:
    """The pieces of `on_policy`, each a pure function of what it is given; `chunk` and `start` make a program.

    Attributes:
        algorithm: What learns; its functions are checked (`checked_parts`).
        envs: The environments stepped together.
        rollout: Steps per environment and iteration.
        iterations: Iterations of a chunk.
        normalise_observations: Whether the policy sees standardised observations.
        reward_scale: Factor on the rewards the algorithm learns from.
        reward_discount: Of the return by whose deviation rewards are divided; None where they are not.
    """

    algorithm: Algorithm
    envs: Vector
    rollout: int
    iterations: int
    normalise_observations: bool
    reward_scale: Number
    reward_discount: Number | None

    def start(self, key: Key) -> TrainState:
        """The state before the first rollout."""
        algorithm_key, env_key, key = jax.random.split(_checks.one_key(key), 3)
        spec = spec_of(self.envs.env, self.normalise_observations)
        return TrainState(
            algorithm=self.algorithm.init(algorithm_key, spec),
            normaliser=Normaliser.start(spec.obs_size) if self.normalise_observations else None,
            experience=self.envs.init(env_key),
            key=key,
            steps=jnp.zeros((), jnp.int32),
            alive=jnp.asarray(True),
            failed_at=jnp.asarray(-1, jnp.int32),
            rewards=None if self.reward_discount is None else RewardScale.start(self.envs.num),
        )

    def collect(
        self, state: TrainState, key: Key
    ) -> tuple[VectorState, Transition, Float[Array, "t n o"], Step]:
        """A rollout: the environments after it, its transitions, the raw observations acted on, and what was shown.

        Transitions hold observations as the policy sees them.
        """
        see, num = state.normaliser or (lambda obs: obs), self.envs.num

        def one(experience: VectorState, keys: tuple[Keys, Key]) -> tuple[VectorState, Any]:
            act_keys, env_key = keys
            obs = see(experience.obs)
            action, extras = jax.vmap(self.algorithm.act, in_axes=(None, 0, 0, None))(
                state.algorithm, obs, act_keys, "explore"
            )
            # Counted when the rollout is over, so that all of it is seen through the same statistics.
            raw = experience.obs
            experience, step = self.envs.step(experience, action, env_key)
            transition = Transition(
                obs=obs,
                action=action,
                reward=step.reward * self.reward_scale,
                next_obs=see(step.next_obs),
                terminated=step.terminated,
                truncated=step.truncated,
                extras=extras,
            )
            return experience, (transition, raw, step)

        act_key, env_key = jax.random.split(key)
        # All at once: a split at each step is a kernel.
        keys = jax.random.split(act_key, (self.rollout, num)), jax.random.split(env_key, self.rollout)
        experience, (batch, raw, steps) = jax.lax.scan(one, state.experience, keys)
        # What was acted on next: after an episode's end the first observation of another, where `next_obs` is the end.
        following = jnp.concatenate([batch.obs[1:], see(experience.obs)[None]])
        batch = eqx.tree_at(lambda b: b.extras, batch, {**batch.extras, "following": following})
        return experience, batch, raw, steps

    def iteration(self, state: TrainState, _: None = None) -> tuple[TrainState, Metrics]:
        """A rollout and the update on it."""
        key, refresh_key, rollout_key, update_key = jax.random.split(state.key, 4)
        experience, batch, raw, steps = self.collect(state, rollout_key)
        rewards = state.rewards
        if rewards is not None and self.reward_discount is not None:
            rewards, scaled = rewards.update(batch.reward, batch.done, self.reward_discount)
            batch = eqx.tree_at(lambda b: b.reward, batch, scaled)
        updated, metrics = self.algorithm.update(state.algorithm, batch, update_key)
        total = state.steps + self.envs.num * self.rollout
        statistics = None if state.normaliser is None else state.normaliser.update(raw)
        old, new = (state.algorithm, state.normaliser, state.rewards), (updated, statistics, rewards)
        (kept, statistics, rewards), alive, failed_at = guard(old, new, metrics, state, total, read=True)
        given = of_data(batch.action, raw, steps.reward, steps.next_obs)
        state = TrainState(
            algorithm=kept,
            normaliser=statistics,
            experience=self.envs.refresh(experience, refresh_key),
            key=key,
            steps=total,
            alive=alive,
            failed_at=failed_at,
            rewards=rewards,
        )
        return state, {**metrics, **of_experience(steps), **given}

    def chunk(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """All iterations between two evaluations."""
        return summarised(self.iteration, state, length=self.iterations)
