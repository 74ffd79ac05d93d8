"""Learning from a fixed data set in one compiled program."""

from typing import Any, NamedTuple

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from dpolicy import _checks
from dpolicy._parts import in_parts
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
from dpolicy.train.offline_data import DISCOUNT, SIZE, TEMPERATURE, given_data
from dpolicy.train.program import Program, TrainState, checked_parts, guard, settled, spec_of
from dpolicy.train.streaming import Held, Streamed, Streaming, keys_ahead
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
    data_discount: float = DISCOUNT,
    data_sampling: Sampling = "uniform",
    data_streaming: Streaming = "auto",
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
        data_discount: Of the Monte-Carlo returns in them; of a method that needs these its own discount.
        data_sampling: uniform draws rows with replacement; epochs takes each once in an order that is drawn anew.
        data_streaming: on leaves the set on the host, in its file where that is one of this project, and reads batches
            as they are needed; off holds it in the device's memory; auto streams what takes more than a quarter of
            that. The numbers are the same, on a CPU to the last bit.
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
    memory = _survey_of(algorithm)
    given, reference, remarks = given_data(
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
        streaming=data_streaming,
        whole="" if memory is None else algorithm.name,
        timeouts=data_timeouts,
        keys=data_keys,
        task=data_task,
        needed=algorithm.extras,
    )
    if not isinstance(dataset, Transition):
        _check_discount(algorithm, data_discount)
    source = given if isinstance(given, Streamed) else Held(given)
    check_extras(algorithm.name, algorithm.extras, source.extras)
    evaluate = evaluation(algorithm, env, evaluation_episodes)
    normaliser = _statistics(source) if normalise_observations else None
    source = source if normaliser is None else source.seen_by(normaliser)
    sizes = batch_size, updates_per_evaluation
    program = _program(algorithm, spec, source, sizes, evaluate, normaliser, reference, data_sampling)
    return program._replace(remarks=remarks)


def _check_discount(algorithm: Algorithm, discount: Any) -> None:
    """Refuse Monte-Carlo returns of another discount than that of the method which compares values with them."""
    wanted = algorithm.discount
    if wanted is None or isinstance(wanted, jax.core.Tracer):
        return
    if not np.isclose(discount, wanted, rtol=1e-6, atol=0):
        raise ValueError(f"data_discount must be the discount of {algorithm.name}, {wanted}, got {discount}.")


def _statistics(source: Held | Streamed) -> Normaliser:
    """Of all observations of the data, in parts that are small beside a set that is streamed."""
    normaliser = Normaliser.start(source.obs.shape[1])
    for part in in_parts(source.obs):
        normaliser = normaliser.update(jnp.asarray(part, float))
    return normaliser


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
    source: Held | Streamed,
    sizes: tuple[int, int],
    evaluate: Any,
    normaliser: Normaliser | None,
    reference: tuple[float, float] | None,
    sampling: Sampling,
) -> Program:
    """The program of rows that are as the policy sees them."""
    _checks.one_of("data_sampling", sampling, ("uniform", "epochs"))
    memory = _survey_of(algorithm)
    batch_size, updates = sizes
    count = len(source)
    held: Any = source.held if isinstance(source, Held) else None
    if sampling == "epochs" and batch_size > count:
        raise ValueError(f"batch_size must be at most the {count:,} rows of an epoch, got {batch_size}.")
    drawn = lambda key: jax.random.randint(key, (batch_size,), 0, count)

    def init(key: Key) -> TrainState:
        algorithm_key, key = jax.random.split(_checks.one_key(key))
        # Of all epochs of the run; their orders are not kept.
        order_key = jax.random.fold_in(algorithm_key, 1) if sampling == "epochs" else None
        return TrainState(
            algorithm=algorithm.init(algorithm_key, spec),
            normaliser=normaliser,
            # The data set is a constant of the program, not a part of every checkpoint.
            experience=order_key if memory is None else Beside(order_key, jax.vmap(memory.start)(held)),
            key=key,
            steps=jnp.zeros((), jnp.int32),
            alive=jnp.asarray(True),
            failed_at=jnp.asarray(-1, jnp.int32),
        )

    def iteration(state: TrainState, read: Any) -> tuple[TrainState, Metrics]:
        experience = state.experience
        if memory is None or memory.organise is None:
            read, key, update_key = read
            batch = source.batch(read, algorithm.horizon)
        else:
            key, sample_key, update_key = jax.random.split(state.key, 3)
            rows = with_entries(held, experience.entries)
            stored = Stored(rows, jnp.zeros((), jnp.int32), jnp.asarray(count), 1)
            key, survey_key = jax.random.split(key)
            experience = Beside(experience.order, memory.organise(state.algorithm, stored, survey_key)[1])
            rows = with_entries(held, experience.entries)
            batch = data_steps(rows, drawn(sample_key) if read is None else read, algorithm.horizon)
        updated, metrics = algorithm.update(state.algorithm, batch, update_key)
        kept, alive, failed_at = guard(state.algorithm, updated, metrics, state, state.steps + 1)
        state = TrainState(kept, state.normaliser, experience, key, state.steps + 1, alive, failed_at)
        return state, metrics

    at_once = source.at_once(updates, batch_size, algorithm.horizon)

    def read(state: TrainState, rows: Any) -> Any:
        after, sample_keys, update_keys = keys_ahead(state.key, at_once)
        rows = jax.vmap(drawn)(sample_keys) if rows is None else rows
        return source.read(rows, algorithm.horizon), after, update_keys

    # What looks at the whole set may change its entries before any update.
    ahead = (at_once, read) if memory is None else None

    def step(state: TrainState) -> tuple[TrainState, Metrics]:
        rows = None
        if sampling == "epochs":
            order = state.experience if memory is None else state.experience.order
            orders = epoch_orders(order, state.steps, updates, count, batch_size)
            numbers = state.steps + jnp.arange(updates)
            rows = jax.vmap(lambda update: batch_of(orders, state.steps, update))(numbers)
        ended, metrics = summarised(iteration, state, rows, length=updates, ahead=ahead)
        ended, metrics = evaluate(settled(state, ended), metrics)
        if reference is not None:
            # Of the mean return: it is affine.
            metrics = {**metrics, "evaluate/score": normalised_score(metrics["evaluate/return"], reference)}
        return ended, metrics

    return Program(init, step, updates, algorithm)
