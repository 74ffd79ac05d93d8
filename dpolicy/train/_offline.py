"""Learning from a fixed data set in one compiled program."""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._types import Key, Metrics, Number, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.data import load
from dpolicy.data.order import check_order
from dpolicy.data.sources import checked, columns
from dpolicy.envs import Environment
from dpolicy.train.evaluate import evaluation, summarised
from dpolicy.train.memory import check_room
from dpolicy.train.normalise import Normaliser
from dpolicy.train.program import Program, TrainState, checked_parts, guard, settled, spec_of
from dpolicy.train.windows import data_steps


def offline(
    algorithm: Algorithm,
    env: Environment,
    *,
    dataset: Transition | None = None,
    data: str = "exact",
    data_size: int = 20_000,
    data_temperature: Number = 0.25,
    batch_size: int = 256,
    updates_per_evaluation: int = 1_000,
    evaluation_episodes: int = 10,
    normalise_observations: bool = False,
) -> Program:
    """Gradient steps on uniform batches of a data set, with evaluations in `env`.

    An algorithm that learns from several steps at a time (`Algorithm.horizon`) is given windows of the data, whose rows
    must then be in order of time; where they are seen not to be, they are refused (`dpolicy.data.check_order`).

    Args:
        algorithm: An offline algorithm.
        env: Where the policy is evaluated; its sizes must be the data's.
        dataset: Transitions with one leading axis; given, the three settings below are unused.
        data: "exact" for samples of exp(Q / temperature) / Z in a bandit, or the path of an .npz file.
        data_size: Exact samples to draw.
        data_temperature: Their temperature.
        batch_size: Transitions per update.
        updates_per_evaluation: Updates between two evaluations.
        evaluation_episodes: Episodes per evaluation.
        normalise_observations: Whether the policy sees observations standardised with the data's statistics.

    Raises:
        ValueError: For an algorithm of another family, sizes that differ from the environment's, a value out of
            its range, or data out of order for an algorithm that learns from windows.
    """
    algorithm = checked_parts(algorithm, env, "offline")
    spec = spec_of(env, normalise_observations)
    _checks.integer("batch_size", batch_size)
    _checks.integer("updates_per_evaluation", updates_per_evaluation)
    _checks.integer("data_size", data_size)
    _checks.positive("data_temperature", data_temperature)
    if dataset is None:
        if data == "exact":
            check_room("data_size", data_size, 8 * (env.spec.obs_size + env.spec.action_size + 1))
        given = load(data, env, size=data_size, temperature=data_temperature)
    elif isinstance(dataset, Transition):
        given = dataset
    else:
        raise ValueError(f"dataset must be a Transition or None, got {type(dataset).__name__}.")
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(given)):
        if dataset is not None:
            checked(columns(dataset), "dataset")
        if algorithm.horizon is not None and algorithm.horizon.steps > 1:
            check_order(given, "data" if dataset is None else "dataset")
    sizes = given.obs.shape[-1], given.action.shape[-1]
    if sizes != (env.spec.obs_size, env.spec.action_size):
        raise ValueError(
            f"dataset must have observations and actions of sizes {env.spec.obs_size, env.spec.action_size} "
            f"({env.spec.name}), got {sizes}."
        )
    evaluate = evaluation(algorithm, env, evaluation_episodes)
    normaliser = Normaliser.start(env.spec.obs_size)
    if normalise_observations:
        normaliser = normaliser.update(given.obs)
        see = (normaliser(given.obs), normaliser(given.next_obs))
        given = eqx.tree_at(lambda d: (d.obs, d.next_obs), given, see)

    def init(key: Key) -> TrainState:
        algorithm_key, key = jax.random.split(_checks.one_key(key))
        return TrainState(
            algorithm=algorithm.init(algorithm_key, spec),
            normaliser=normaliser if normalise_observations else None,
            experience=None,  # the data set is a constant of the program, not a part of every checkpoint
            key=key,
            steps=jnp.zeros((), jnp.int32),
            alive=jnp.asarray(True),
            failed_at=jnp.asarray(-1, jnp.int32),
        )

    def iteration(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
        key, sample_key, update_key = jax.random.split(state.key, 3)
        index = jax.random.randint(sample_key, (batch_size,), 0, given.reward.shape[0])
        batch = data_steps(given, index, algorithm.horizon)
        updated, metrics = algorithm.update(state.algorithm, batch, update_key)
        kept, alive, failed_at = guard(state.algorithm, updated, metrics, state, state.steps + 1)
        state = TrainState(kept, state.normaliser, None, key, state.steps + 1, alive, failed_at)
        return state, metrics

    def step(state: TrainState) -> tuple[TrainState, Metrics]:
        ended, metrics = summarised(iteration, state, length=updates_per_evaluation)
        return evaluate(settled(state, ended), metrics)

    return Program(init, step, updates_per_evaluation, algorithm)
