"""Acting, replay and learning of an off-policy algorithm in one compiled program."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._types import Key, Metrics, Number, Transition
from dpolicy.algorithm import Algorithm, Stored
from dpolicy.envs import Environment, Vector, VectorState
from dpolicy.learner import keep_if
from dpolicy.train.evaluate import evaluation, of_data, of_experience, summarise
from dpolicy.train.normalise import Normaliser
from dpolicy.train.program import Program, TrainState, check_observations, checked_parts, guard
from dpolicy.train.replay import Replay


class Experience(eqx.Module):
    """The environments and what they have shown so far."""

    envs: VectorState
    replay: Replay[Transition]


def off_policy(
    algorithm: Algorithm,
    env: Environment,
    *,
    num_envs: int = 1,
    batch_size: int = 256,
    replay_size: int = 1_000_000,
    warmup: int = 5_000,
    updates_per_step: int = 1,
    evaluation_interval: int = 5_000,
    evaluation_episodes: int = 10,
    evaluation_modes: tuple[str, ...] = ("evaluate",),
    normalise_observations: bool = False,
    reward_scale: Number = 1.0,
    resets: str = "fresh",
) -> Program:
    """Step the environments, store, and learn from uniform replay batches.

    The first `warmup` environment steps act uniformly in [-1, 1] and fill the replay without learning; they are
    taken in `init`. Raw observations are stored and standardised with the current statistics when drawn. What an
    algorithm keeps beside a transition (`Algorithm.memory`) is stored with it, and rewritten when it is drawn; it may
    also choose what is drawn, and look at all that is stored now and then.

    Args:
        algorithm: An off-policy algorithm.
        env: The environment; batched and reset here.
        num_envs: Environments stepped together.
        batch_size: Transitions per update.
        replay_size: Transitions kept; a multiple of `num_envs`.
        warmup: Uniformly random environment steps before learning starts; rounded up to a multiple of `num_envs`.
        updates_per_step: Updates after each step of all environments.
        evaluation_interval: Environment steps between two evaluations; a multiple of `num_envs`.
        evaluation_episodes: Episodes per evaluation, without exploration.
        evaluation_modes: How the policy acts in evaluation; further modes of the algorithm are reported beside
            "evaluate".
        normalise_observations: Whether the policy sees standardised observations.
        reward_scale: Factor on the rewards the algorithm learns from; reported returns are unscaled.
        resets: "fresh" draws a new start at every reset; "pool" picks from pre-drawn ones (slow simulators).

    Raises:
        ValueError: for an algorithm of another family or a value out of its range, or for an evaluation interval that
            is no multiple of the interval at which the algorithm looks at the replay (nor below it).
    """
    algorithm = checked_parts(algorithm, env, "off_policy")
    check_observations(algorithm, normalise_observations)
    for name, value in (
        ("num_envs", num_envs),
        ("batch_size", batch_size),
        ("replay_size", replay_size),
        ("warmup", warmup),
        ("updates_per_step", updates_per_step),
        ("evaluation_interval", evaluation_interval),
        ("evaluation_episodes", evaluation_episodes),
    ):
        _checks.integer(name, value)
    _checks.positive("reward_scale", reward_scale)
    start = -(-warmup // num_envs) * num_envs
    for name, value in (("batch_size", batch_size), ("warmup", start)):
        if value > replay_size:
            raise ValueError(f"{name} must not exceed the replay_size of {replay_size}, got {value}.")
    for name, value in (("replay_size", replay_size), ("evaluation_interval", evaluation_interval)):
        if value % num_envs:
            raise ValueError(f"{name} must be a multiple of num_envs = {num_envs}, got {value}.")
    length, looks = evaluation_interval // num_envs, 1
    if algorithm.memory is not None and algorithm.memory.organise is not None:
        between = min(algorithm.memory.interval, length)
        looks = length // between
        if length % between:
            unit = f"num_envs * {between} = {num_envs * between}"
            raise ValueError(
                f"evaluation_interval must be a multiple of {unit} for {algorithm.name}, got {evaluation_interval}."
            )
    envs = Vector(env, num_envs, resets=resets)
    evaluate = evaluation(algorithm, env, evaluation_episodes, evaluation_modes)
    spec, memory = env.spec, algorithm.memory

    def observe(
        experience: Experience, normaliser: Normaliser | None, action: Any, key: Key
    ) -> tuple[Experience, Normaliser | None, Any]:
        obs = experience.envs.obs
        state, step = envs.step(experience.envs, action, key)
        transition = Transition(
            obs=obs,
            action=action,
            reward=step.reward * reward_scale,
            next_obs=step.next_obs,
            terminated=step.terminated,
            truncated=step.truncated,
        )
        if memory is not None:
            transition = dataclasses.replace(transition, extras=jax.vmap(memory.start)(transition))
        if normaliser is not None:
            normaliser = normaliser.update(obs)
        return Experience(state, experience.replay.add(transition)), normaliser, step

    def stored(state: TrainState) -> Stored:
        replay = state.experience.replay
        return Stored(replay.data, replay.cursor, replay.size, num_envs)

    def organised(state: TrainState) -> TrainState:
        if memory is None or memory.organise is None:
            return state
        key, organise_key = jax.random.split(state.key)
        seen, extras = memory.organise(state.algorithm, stored(state), organise_key)
        old = (state.algorithm, state.experience.replay.data.extras)
        where = lambda s: (s.algorithm, s.experience.replay.data.extras, s.key)
        return eqx.tree_at(where, state, (*keep_if(state.alive, old, (seen, extras)), key))

    def init(key: Key) -> TrainState:
        algorithm_key, env_key, warmup_key, key = jax.random.split(_checks.one_key(key), 4)
        no = jnp.asarray(False)
        zeros = jnp.zeros(spec.obs_size)
        blank = Transition(zeros, jnp.zeros(spec.action_size), jnp.zeros(()), zeros, no, no)
        if memory is not None:
            blank = dataclasses.replace(blank, extras=memory.start(blank))
        experience = Experience(envs.init(env_key), Replay.start(blank, replay_size))
        normaliser = Normaliser.start(spec.obs_size) if normalise_observations else None

        def random_step(carry: Any, key: Key) -> tuple[Any, None]:
            action_key, key = jax.random.split(key)
            action = jax.random.uniform(action_key, (num_envs, spec.action_size), minval=-1.0, maxval=1.0)
            return observe(carry[0], carry[1], action, key)[:2], None

        (experience, normaliser), _ = jax.lax.scan(
            random_step, (experience, normaliser), jax.random.split(warmup_key, start // num_envs)
        )
        state = TrainState(
            algorithm=algorithm.init(algorithm_key, spec),
            normaliser=normaliser,
            experience=experience,
            key=key,
            steps=jnp.asarray(start, jnp.int32),
            alive=jnp.asarray(True),
            failed_at=jnp.asarray(-1, jnp.int32),
        )
        return organised(state)

    def learn(state: TrainState, key: Key) -> tuple[TrainState, Metrics]:
        sample_key, update_key = jax.random.split(key)
        if memory is None or memory.draw is None:
            rows = state.experience.replay.draw(sample_key, batch_size)
        else:
            rows = memory.draw(state.algorithm, stored(state), sample_key, batch_size)
        drawn = batch = state.experience.replay[rows]
        if (see := state.normaliser) is not None:
            batch = eqx.tree_at(lambda b: (b.obs, b.next_obs), batch, (see(batch.obs), see(batch.next_obs)))
        if memory is not None:
            update_key, revise_key = jax.random.split(update_key)
            batch = memory.revise(state.algorithm, batch, revise_key)
        updated, metrics = algorithm.update(state.algorithm, batch, update_key)
        kept, alive, failed_at = guard(state.algorithm, updated, metrics, state, state.steps)
        if memory is not None:
            extras = keep_if(alive, drawn.extras, batch.extras)
            replay = state.experience.replay.rewrite(rows, lambda item: item.extras, extras)
            state = eqx.tree_at(lambda s: s.experience.replay, state, replay)
        where = lambda s: (s.algorithm, s.alive, s.failed_at)
        given = of_data(drawn.action, drawn.obs, drawn.reward, drawn.next_obs)
        return eqx.tree_at(where, state, (kept, alive, failed_at)), {**metrics, **given}

    def iteration(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        key, act_key, env_key, learn_key = jax.random.split(state.key, 4)
        see = state.normaliser or (lambda obs: obs)
        obs, act_keys = see(state.experience.envs.obs), jax.random.split(act_key, num_envs)
        if algorithm.explore_at is None:
            act = jax.vmap(algorithm.act, in_axes=(None, 0, 0, None))
            action, _extras = act(state.algorithm, obs, act_keys, "explore")
        else:
            act = jax.vmap(algorithm.explore_at, in_axes=(None, 0, 0, 0))
            action, _extras = act(state.algorithm, obs, act_keys, jnp.linspace(0.0, 1.0, num_envs))
        statistics = state.normaliser
        experience, normaliser, step = observe(state.experience, statistics, action, env_key)
        state = TrainState(
            algorithm=state.algorithm,
            normaliser=normaliser,
            experience=experience,
            key=key,
            steps=state.steps + num_envs,
            alive=state.alive,
            failed_at=state.failed_at,
        )
        state, metrics = jax.lax.scan(learn, state, jax.random.split(learn_key, updates_per_step))
        # A diverged environment must not spoil the statistics that the last finite policy reads.
        if statistics is not None:
            statistics = keep_if(state.alive, statistics, state.normaliser)
            state = eqx.tree_at(lambda s: s.normaliser, state, statistics)
        return state, {**summarise(metrics), **of_experience(step)}

    def stretch(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        state, metrics = jax.lax.scan(iteration, state, None, length=length // looks)
        return organised(state), metrics

    def step(state: TrainState) -> tuple[TrainState, Metrics]:
        key, refresh_key = jax.random.split(state.key)
        fresh = envs.refresh(state.experience.envs, refresh_key)
        state = eqx.tree_at(lambda s: (s.key, s.experience.envs), state, (key, fresh))
        state, metrics = jax.lax.scan(stretch, state, None, length=looks)
        metrics = {name: values.reshape(length, *values.shape[2:]) for name, values in metrics.items()}
        return evaluate(state, metrics)

    return Program(init, step, evaluation_interval, algorithm, start)
