"""Rollout and update of an on-policy algorithm in one compiled program."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._types import Key, Metrics, Number, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.envs import Environment, Step, Vector
from dpolicy.train.evaluate import evaluation, of_data, of_experience
from dpolicy.train.normalise import Normaliser, RewardScale
from dpolicy.train.program import Program, TrainState, check_observations, checked_parts, guard


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
        ValueError: for an algorithm of another family, one that needs observations as they are where they would be
            standardised, or a value out of its range.
    """
    algorithm = checked_parts(algorithm, env, "on_policy")
    check_observations(algorithm, normalise_observations)
    _checks.integer("num_envs", num_envs)
    _checks.integer("rollout", rollout)
    _checks.integer("iterations_per_evaluation", iterations_per_evaluation)
    _checks.positive("reward_scale", reward_scale)
    if reward_discount is not None:
        _checks.fraction("reward_discount", reward_discount)
    envs = Vector(env, num_envs, resets=resets, random_start=True)
    evaluate = evaluation(algorithm, env, evaluation_episodes, evaluation_modes)
    steps_per_iteration = num_envs * rollout
    chunk = steps_per_iteration * iterations_per_evaluation
    _checks.integer("num_envs * rollout * iterations_per_evaluation", chunk)

    def init(key: Key) -> TrainState:
        algorithm_key, env_key, key = jax.random.split(_checks.one_key(key), 3)
        return TrainState(
            algorithm=algorithm.init(algorithm_key, env.spec),
            normaliser=Normaliser.start(env.spec.obs_size) if normalise_observations else None,
            experience=envs.init(env_key),
            key=key,
            steps=jnp.zeros((), jnp.int32),
            alive=jnp.asarray(True),
            failed_at=jnp.asarray(-1, jnp.int32),
            rewards=None if reward_discount is None else RewardScale.start(num_envs),
        )

    def collect(state: TrainState, key: Key) -> tuple[Any, Transition, Any, Step]:
        see = state.normaliser or (lambda obs: obs)

        def one(experience: Any, key: Key) -> tuple[Any, Any]:
            act_key, env_key = jax.random.split(key)
            obs = see(experience.obs)
            action, extras = jax.vmap(algorithm.act, in_axes=(None, 0, 0, None))(
                state.algorithm, obs, jax.random.split(act_key, num_envs), "explore"
            )
            raw = experience.obs
            experience, step = envs.step(experience, action, env_key)
            transition = Transition(
                obs=obs,
                action=action,
                reward=step.reward * reward_scale,
                next_obs=see(step.next_obs),
                terminated=step.terminated,
                truncated=step.truncated,
                extras=extras,
            )
            return experience, (transition, raw, step)

        experience, (batch, raw, steps) = jax.lax.scan(one, state.experience, jax.random.split(key, rollout))
        return experience, batch, raw, steps

    def iteration(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        key, refresh_key, rollout_key, update_key = jax.random.split(state.key, 4)
        experience, batch, raw, steps = collect(state, rollout_key)
        see = state.normaliser or (lambda obs: obs)
        following = jnp.concatenate([batch.obs[1:], see(experience.obs)[None]])
        batch = eqx.tree_at(lambda b: b.extras, batch, {**batch.extras, "following": following})
        rewards = state.rewards
        if rewards is not None and reward_discount is not None:
            rewards, scaled = rewards.update(batch.reward, batch.done, reward_discount)
            batch = eqx.tree_at(lambda b: b.reward, batch, scaled)
        updated, metrics = algorithm.update(state.algorithm, batch, update_key)
        total = state.steps + steps_per_iteration
        statistics = None if state.normaliser is None else state.normaliser.update(raw)
        old, new = (state.algorithm, state.normaliser, state.rewards), (updated, statistics, rewards)
        (kept, statistics, rewards), alive, failed_at = guard(old, new, metrics, state, total)
        given = of_data(batch.action, raw, steps.reward, steps.next_obs)
        metrics = {**metrics, **of_experience(steps), **given}
        return (
            TrainState(
                algorithm=kept,
                normaliser=statistics,
                experience=envs.refresh(experience, refresh_key),
                key=key,
                steps=total,
                alive=alive,
                failed_at=failed_at,
                rewards=rewards,
            ),
            metrics,
        )

    def step(state: TrainState) -> tuple[TrainState, Metrics]:
        state, metrics = jax.lax.scan(iteration, state, None, length=iterations_per_evaluation)
        return evaluate(state, metrics)

    return Program(init, step, chunk, algorithm)
