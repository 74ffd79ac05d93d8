"""Learning from a fixed data set in one compiled program."""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._types import Key, Metrics, Number, Transition
from dpolicy.algorithm import Algorithm, Memory, Stored, check_extras
from dpolicy.data import DataSet, normalised_score
from dpolicy.data.d4rl import Timeouts
from dpolicy.data.rewards import RewardTreatment
from dpolicy.data.sets import Extra
from dpolicy.envs import Environment, Spec
from dpolicy.learning._stages import with_entries
from dpolicy.train.epochs import Sampling, batch_of, epoch_orders
from dpolicy.train.evaluate import evaluation, summarised
from dpolicy.train.normalise import Normaliser
from dpolicy.train.offline_data import SIZE, TEMPERATURE, given_data
from dpolicy.train.program import Program, TrainState, checked_parts, guard, settled, spec_of
from dpolicy.train.windows import data_steps


def offline(
    algorithm: Algorithm,
    env: Environment,
    *,
    dataset: Transition | DataSet | None = None,
    data: str = "exact",
    data_size: int = SIZE,
    data_temperature: Number = TEMPERATURE,
    data_rewards: RewardTreatment = "none",
    data_action_clip: float | None = None,
    data_timeouts: Timeouts = "drop",
    data_keys: tuple[str, ...] = (),
    data_task: int | None = None,
    data_reference: tuple[float, float] | None = None,
    data_extras: tuple[Extra, ...] = (),
    data_discount: float = 0.99,
    data_sampling: Sampling = "uniform",
    batch_size: int = 256,
    updates_per_evaluation: int = 1_000,
    evaluation_episodes: int = 10,
    normalise_observations: bool = False,
) -> Program:
    """Gradient steps on batches of a data set, with evaluations in `env`.

    An algorithm that learns from several steps at a time (`Algorithm.horizon`) is given windows of the data, whose rows
    must then be in order of time; where they are seen not to be, they are refused (`dpolicy.data.check_order`).

    Where the set has reference returns, D4RL's by their names and Minari's by their metadata, `evaluate/score` is the
    normalised score, 100 (R - R_min) / (R_max - R_min), of the environment's own rewards.

    Args:
        algorithm: An offline algorithm.
        env: Where the policy is evaluated; its sizes must be the data's.
        dataset: Transitions with one leading axis, or a `DataSet`; given, what says where data come from is unused.
        data: "exact" for samples of exp(Q / temperature) / Z in a bandit; in a maze "maze/navigate" and the other kinds
            of `dpolicy.data.maze_data`, made for that maze; else the path of a file (.npz, .hdf5), of a folder of
            Minari, or the name of a set that is on disk.
        data_size: Exact samples to draw, or rows of a maze to make.
        data_temperature: Their temperature.
        data_rewards: What becomes of the rewards before training: see `dpolicy.data.treated`.
        data_action_clip: Actions are clipped to plus and minus this; None for not at all.
        data_timeouts: Of D4RL's files, what becomes of rows with a time-out: see `dpolicy.data.read_d4rl`.
        data_keys: Of Minari's dictionaries, which entries are put side by side, such as: observation desired_goal.
        data_task: Of OGBench's sets, the task whose rewards they are given; 0 for the default one.
        data_reference: Two returns (R_min, R_max) that scores are normalised by, in the place of the set's own.
        data_extras: What goes into the extras of the transitions: next_action, mc_return, trajectory. What an algorithm
            needs of these is there without being named, where rows are not given as transitions.
        data_discount: Of the Monte-Carlo returns in them.
        data_sampling: uniform draws rows with replacement; epochs takes each once in an order that is drawn anew.
        batch_size: Transitions per update.
        updates_per_evaluation: Updates between two evaluations.
        evaluation_episodes: Episodes per evaluation.
        normalise_observations: Whether the policy sees observations standardised with the data's statistics.

    Raises:
        ValueError: For an algorithm of another family, sizes that differ from the environment's, a value out of
            its range, data that are missing or not as their settings say, or data out of order for an algorithm that
            learns from windows.
    """
    algorithm = checked_parts(algorithm, env, "offline")
    spec = spec_of(env, normalise_observations)
    _checks.integer("batch_size", batch_size)
    _checks.integer("updates_per_evaluation", updates_per_evaluation)
    given, reference = given_data(
        env,
        dataset,
        data,
        algorithm.horizon,
        size=data_size,
        temperature=data_temperature,
        rewards=data_rewards,
        action_clip=data_action_clip,
        extras=data_extras,
        discount=data_discount,
        reference=data_reference,
        timeouts=data_timeouts,
        keys=data_keys,
        task=data_task,
        needed=algorithm.extras,
    )
    check_extras(algorithm.name, algorithm.extras, given.extras)
    evaluate = evaluation(algorithm, env, evaluation_episodes)
    normaliser = Normaliser.start(env.spec.obs_size)
    if normalise_observations:
        normaliser = normaliser.update(given.obs)
        see = (normaliser(given.obs), normaliser(given.next_obs))
        given = eqx.tree_at(lambda d: (d.obs, d.next_obs), given, see)

    return _program(
        algorithm,
        spec,
        given,
        batch_size,
        updates_per_evaluation,
        evaluate,
        normaliser if normalise_observations else None,
        reference,
        data_sampling,
    )


class Beside(NamedTuple):
    """What an offline run keeps beside its data.

    Attributes:
        order: The key of the orders of its epochs; None for draws with replacement.
        entries: Of every row, by name.
    """

    order: Key | None
    entries: dict[str, Any]


def _survey_of(algorithm: Algorithm) -> Memory | None:
    """What the algorithm keeps beside the rows of its data, or raise `ValueError` for what only a replay can keep."""
    memory = algorithm.memory
    if memory is not None and (
        memory.organise is None or memory.draw is not None or memory.enter is not None
    ):
        raise ValueError(
            f"{algorithm.name} stores entries beside the transitions of a replay, which a data set does not have: an "
            "offline algorithm must have no such stage (remembered, prioritised)."
        )
    return memory


def _program(
    algorithm: Algorithm,
    spec: Spec,
    given: Transition,
    batch_size: int,
    updates: int,
    evaluate: Any,
    normaliser: Normaliser | None,
    reference: tuple[float, float] | None,
    sampling: Sampling,
) -> Program:
    """The program of rows that are as the policy sees them."""
    _checks.one_of("data_sampling", sampling, ("uniform", "epochs"))
    memory = _survey_of(algorithm)
    if sampling == "epochs" and batch_size > (rows := given.reward.shape[0]):
        raise ValueError(f"batch_size must be at most the {rows:,} rows of an epoch, got {batch_size}.")

    def init(key: Key) -> TrainState:
        algorithm_key, key = jax.random.split(_checks.one_key(key))
        # Of all epochs of the run; their orders are not kept.
        order_key = jax.random.fold_in(algorithm_key, 1) if sampling == "epochs" else None
        return TrainState(
            algorithm=algorithm.init(algorithm_key, spec),
            normaliser=normaliser,
            # The data set is a constant of the program, not a part of every checkpoint.
            experience=order_key if memory is None else Beside(order_key, jax.vmap(memory.start)(given)),
            key=key,
            steps=jnp.zeros((), jnp.int32),
            alive=jnp.asarray(True),
            failed_at=jnp.asarray(-1, jnp.int32),
        )

    def iteration(state: TrainState, shuffled: Any) -> tuple[TrainState, Metrics]:
        key, sample_key, update_key = jax.random.split(state.key, 3)
        rows, experience = given, state.experience
        if memory is not None and memory.organise is not None:
            rows = with_entries(given, experience.entries)
            stored = Stored(rows, jnp.zeros((), jnp.int32), jnp.asarray(given.reward.shape[0]), 1)
            key, survey_key = jax.random.split(key)
            experience = Beside(experience.order, memory.organise(state.algorithm, stored, survey_key)[1])
            rows = with_entries(given, experience.entries)
        if shuffled is None:
            shuffled = jax.random.randint(sample_key, (batch_size,), 0, given.reward.shape[0])
        batch = data_steps(rows, shuffled, algorithm.horizon)
        updated, metrics = algorithm.update(state.algorithm, batch, update_key)
        kept, alive, failed_at = guard(state.algorithm, updated, metrics, state, state.steps + 1)
        state = TrainState(kept, state.normaliser, experience, key, state.steps + 1, alive, failed_at)
        return state, metrics

    def step(state: TrainState) -> tuple[TrainState, Metrics]:
        rows = None
        if sampling == "epochs":
            order = state.experience if memory is None else state.experience.order
            orders = epoch_orders(order, state.steps, updates, given.reward.shape[0], batch_size)
            numbers = state.steps + jnp.arange(updates)
            rows = jax.vmap(lambda update: batch_of(orders, state.steps, update))(numbers)
        ended, metrics = summarised(iteration, state, rows, length=updates)
        ended, metrics = evaluate(settled(state, ended), metrics)
        if reference is not None:
            # Of the mean return: it is affine.
            metrics = {**metrics, "evaluate/score": normalised_score(metrics["evaluate/return"], reference)}
        return ended, metrics

    return Program(init, step, updates, algorithm)
