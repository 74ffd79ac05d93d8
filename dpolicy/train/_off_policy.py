"""Acting, replay and learning of an off-policy algorithm in one compiled program."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpolicy import _checks
from dpolicy._types import Key, Keys, Metrics, Number, Transition
from dpolicy.algorithm import Algorithm, Stored
from dpolicy.envs import Environment, Step, Vector, VectorState
from dpolicy.optimisers import keep_if
from dpolicy.train.evaluate import evaluation, of_data, of_experience, summarised
from dpolicy.train.holding import HeldKeys, check_holding
from dpolicy.train.normalise import Normaliser, ReturnScale
from dpolicy.train.program import Program, TrainState, checked_parts, guard, settled, spec_of
from dpolicy.train.replay import Replay
from dpolicy.train.windows import stored_steps


class Experience(eqx.Module):
    """The environments and what they have shown so far; how they are explored, and what their returns are like."""

    envs: VectorState
    replay: Replay[Transition]
    held: HeldKeys | None = None
    returns: ReturnScale | None = None


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
    reward_discount: Number | None = None,
    return_bound: Number | None = None,
    noise_repeats: int = 1,
    noise_exponent: Number | None = None,
    resets: str = "fresh",
) -> Program:
    """Step the environments, store, and learn from uniform replay batches.

    The first `warmup` environment steps act uniformly in [-1, 1] and fill the replay without learning; they are
    taken in `init`. Raw observations are stored and standardised with the current statistics when drawn. What an
    algorithm keeps beside a transition (`Algorithm.memory`) is stored with it, and rewritten when it is drawn; it may
    also look at each step that is new, choose what is drawn, and look at all that is stored now and then. Where it
    learns from several steps at a time (`Algorithm.horizon`), the rows drawn are the first ones of windows, and what it
    keeps is that of the first.

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
        reward_discount: Given, rewards are moreover divided by the running deviation of their return with this
            discount, or by more, so that no return seen is beyond `return_bound`; when drawn, as observations are.
        return_bound: That bound, 5 unless given; it needs a `reward_discount`.
        noise_repeats: Most steps that exploration keeps the noise of an environment for; 1 for new noise at every step.
            Of any policy: see `dpolicy.train.HeldKeys`.
        noise_exponent: Noise is kept for k steps with a probability proportional to k to the minus this, 2 unless
            given; it needs `noise_repeats` above 1.
        resets: "fresh" draws a new start at every reset; "pool" picks from pre-drawn ones (slow simulators).

    Raises:
        ValueError: For an algorithm of another family or a value out of its range, or for an evaluation interval that
            is no multiple of the interval at which the algorithm looks at the replay (nor below it).
    """
    algorithm = checked_parts(algorithm, env, "off_policy")
    spec_of(env, normalise_observations)
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
    if return_bound is not None:
        _checks.positive("return_bound", return_bound)
        if reward_discount is None:
            raise ValueError(f"return_bound needs a reward_discount, got {return_bound!r} without.")
    if reward_discount is not None:
        _checks.fraction("reward_discount", reward_discount)
    check_holding(noise_repeats, noise_exponent)
    loop = OffPolicyLoop(
        algorithm=algorithm,
        envs=Vector(env, num_envs, resets=resets),
        batch_size=batch_size,
        replay_size=replay_size,
        warmup=-(-warmup // num_envs) * num_envs,
        updates_per_step=updates_per_step,
        interval=evaluation_interval,
        reward_scale=reward_scale,
        normalise_observations=normalise_observations,
        reward_discount=reward_discount,
        return_bound=5.0 if return_bound is None else return_bound,
        noise_repeats=noise_repeats,
        noise_exponent=2.0 if noise_exponent is None else noise_exponent,
    )
    loop.check_sizes()
    evaluate = evaluation(algorithm, env, evaluation_episodes, evaluation_modes)

    def step(state: TrainState) -> tuple[TrainState, Metrics]:
        return evaluate(*loop.chunk(state))

    return Program(loop.start, step, evaluation_interval, algorithm, loop.warmup)


@dataclasses.dataclass(frozen=True)
class OffPolicyLoop:
    """The pieces of `off_policy`, each a pure function of what it is given; `chunk` and `start` make a program.

    Attributes:
        algorithm: What learns; its functions are checked (`checked_parts`).
        envs: The environments stepped together.
        batch_size: Transitions per update.
        replay_size: Transitions kept.
        warmup: Random environment steps that `start` takes, a multiple of the environments.
        updates_per_step: Updates after each step of all environments.
        interval: Environment steps of a chunk.
        reward_scale: Factor on the rewards that are stored.
        normalise_observations: Whether observations are standardised where the policy or an update sees them.
        reward_discount: Of the returns by whose deviation the rewards of a batch are divided; None where they are not.
        return_bound: Of those returns.
        noise_repeats: Most steps that exploration keeps its noise for.
        noise_exponent: Of the law of how many.
    """

    algorithm: Algorithm
    envs: Vector
    batch_size: int
    replay_size: int
    warmup: int
    updates_per_step: int
    interval: int
    reward_scale: Number
    normalise_observations: bool
    reward_discount: Number | None = None
    return_bound: Number = 5.0
    noise_repeats: int = 1
    noise_exponent: Number = 2.0

    def check_sizes(self) -> None:
        """Raise `ValueError` unless the sizes fit each other; see `off_policy`."""
        num, memory, horizon = self.envs.num, self.algorithm.memory, self.algorithm.horizon
        for name, value in (("batch_size", self.batch_size), ("warmup", self.warmup)):
            if value > self.replay_size:
                raise ValueError(
                    f"{name} must not exceed the replay_size of {self.replay_size}, got {value}."
                )
        for name, value in (("replay_size", self.replay_size), ("evaluation_interval", self.interval)):
            if value % num:
                raise ValueError(f"{name} must be a multiple of num_envs = {num}, got {value}.")
        if horizon is not None and horizon.steps * num > self.replay_size:
            raise ValueError(
                f"replay_size must hold the {horizon.steps} steps of the horizon of {self.algorithm.name} for each "
                f"environment, {horizon.steps * num}, got {self.replay_size}."
            )
        if memory is not None and memory.organise is not None:
            # Looks at the replay end stretches of a chunk that are equally long, so that one program runs them all.
            between = min(memory.interval, self.interval // num)
            if self.interval // num % between:
                unit = f"num_envs * {between} = {num * between}"
                raise ValueError(
                    f"evaluation_interval must be a multiple of {unit} for {self.algorithm.name}, got {self.interval}."
                )

    @property
    def looks(self) -> int:
        """How often the algorithm looks at the whole replay in a chunk; 1 where it never does."""
        memory, length = self.algorithm.memory, self.interval // self.envs.num
        return 1 if memory is None or memory.organise is None else length // min(memory.interval, length)

    def start(self, key: Key) -> TrainState:
        """The state after the random steps, before the first update."""
        spec, memory = spec_of(self.envs.env, self.normalise_observations), self.algorithm.memory
        algorithm_key, env_key, warmup_key, key = jax.random.split(_checks.one_key(key), 4)
        no = jnp.asarray(False)
        zeros = jnp.zeros(spec.obs_size)
        blank = Transition(zeros, jnp.zeros(spec.action_size), jnp.zeros(()), zeros, no, no)
        if memory is not None:
            blank = dataclasses.replace(blank, extras=memory.start(blank))
        held = None
        if self.noise_repeats > 1:
            hold_key, key = jax.random.split(key)
            held = HeldKeys.start(hold_key, self.envs.num)
        experience = Experience(
            self.envs.init(env_key),
            Replay.start(blank, self.replay_size),
            held,
            None if self.reward_discount is None else ReturnScale.start(self.envs.num),
        )
        normaliser = Normaliser.start(spec.obs_size) if self.normalise_observations else None

        def random_step(carry: Any, key: Key) -> tuple[Any, None]:
            action_key, key = jax.random.split(key)
            shape = (self.envs.num, spec.action_size)
            action = jax.random.uniform(action_key, shape, minval=-1.0, maxval=1.0)
            return self.observe(carry[0], carry[1], action, key)[:2], None

        (experience, normaliser), _ = jax.lax.scan(
            random_step, (experience, normaliser), jax.random.split(warmup_key, self.warmup // self.envs.num)
        )
        state = TrainState(
            algorithm=self.algorithm.init(algorithm_key, spec),
            normaliser=normaliser,
            experience=experience,
            key=key,
            steps=jnp.asarray(self.warmup, jnp.int32),
            alive=jnp.asarray(True),
            failed_at=jnp.asarray(-1, jnp.int32),
        )
        return self.organised(state)

    def act(self, state: TrainState, keys: Keys) -> Float[Array, "n a"]:
        """How it explores in every environment now, from a key for each."""
        # The replay holds raw observations; whoever reads them standardises them by the statistics of now.
        see = state.normaliser or (lambda obs: obs)
        obs = see(state.experience.envs.obs)
        act = jax.vmap(self.algorithm.act, in_axes=(None, 0, 0, None, 0))
        return act(state.algorithm, obs, keys, "explore", jnp.linspace(0.0, 1.0, self.envs.num))[0]

    def observe(
        self,
        experience: Experience,
        normaliser: Normaliser | None,
        action: Float[Array, "n a"],
        key: Key,
        learned: Any = None,
    ) -> tuple[Experience, Normaliser | None, Step, Any]:
        """Take a step in every environment and store it; the statistics take in the observations acted on.

        The state of the algorithm, where it is given, comes back as it is after its look at the step.
        """
        obs, memory = experience.envs.obs, self.algorithm.memory
        envs, step = self.envs.step(experience.envs, action, key)
        transition = Transition(
            obs=obs,
            action=action,
            reward=step.reward * self.reward_scale,
            next_obs=step.next_obs,
            terminated=step.terminated,
            truncated=step.truncated,
        )
        if memory is not None:
            transition = dataclasses.replace(transition, extras=jax.vmap(memory.start)(transition))
            if memory.enter is not None and learned is not None:
                learned, transition = memory.enter(learned, self._ring(experience), transition)
        if normaliser is not None:
            normaliser = normaliser.update(obs)
        returns = experience.returns
        if returns is not None and self.reward_discount is not None:
            returns = returns.update(transition.reward, transition.done, self.reward_discount)
        return (
            Experience(envs, experience.replay.add(transition), experience.held, returns),
            normaliser,
            step,
            learned,
        )

    def stored(self, state: TrainState) -> Stored:
        """The replay as an algorithm sees it."""
        return self._ring(state.experience)

    def _ring(self, experience: Experience) -> Stored:
        replay = experience.replay
        return Stored(replay.data, replay.cursor, replay.size, self.envs.num)

    def organised(self, state: TrainState) -> TrainState:
        """The state after the algorithm's look at all that is stored; the same where it takes none."""
        memory = self.algorithm.memory
        if memory is None or memory.organise is None:
            return state
        key, organise_key = jax.random.split(state.key)
        seen, extras = memory.organise(state.algorithm, self.stored(state), organise_key)
        old = (state.algorithm, state.experience.replay.data.extras)
        where = lambda s: (s.algorithm, s.experience.replay.data.extras, s.key)
        # A seed that has failed keeps what it was, its replay included.
        return eqx.tree_at(where, state, (*keep_if(state.alive, old, (seen, extras)), key))

    def draw(self, state: TrainState, key: Key) -> tuple[Int[Array, " b"], Transition]:
        """The rows of a batch, and the transitions that begin in them, as they were observed."""
        memory, replay = self.algorithm.memory, state.experience.replay
        if memory is None or memory.draw is None:
            rows = replay.draw(key, self.batch_size)
        else:
            rows = memory.draw(state.algorithm, self.stored(state), key, self.batch_size)
        return rows, stored_steps(self.stored(state), rows, self.algorithm.horizon)

    def learn(self, state: TrainState, keys: Keys) -> tuple[TrainState, Metrics]:
        """One update on a batch of the replay, from a key for the draw and one for the update."""
        memory = self.algorithm.memory
        sample_key, update_key = keys
        rows, drawn = self.draw(state, sample_key)
        batch = drawn
        if (see := state.normaliser) is not None:
            batch = eqx.tree_at(lambda b: (b.obs, b.next_obs), batch, (see(batch.obs), see(batch.next_obs)))
        if (returns := state.experience.returns) is not None:
            batch = eqx.tree_at(lambda b: b.reward, batch, batch.reward / returns.scale(self.return_bound))
        if memory is not None:
            update_key, revise_key = jax.random.split(update_key)
            batch = memory.revise(state.algorithm, batch, revise_key)
        updated, metrics = self.algorithm.update(state.algorithm, batch, update_key)
        kept, alive, failed_at = guard(state.algorithm, updated, metrics, state, state.steps)
        if memory is not None:
            # Of a window's extras, its chunk of actions is made when it is drawn; only what is stored is rewritten.
            stored = state.experience.replay.data.extras
            extras = {name: keep_if(alive, drawn.extras[name], batch.extras[name]) for name in stored}
            replay = state.experience.replay.rewrite(rows, lambda item: item.extras, extras)
            state = eqx.tree_at(lambda s: s.experience.replay, state, replay)
        where = lambda s: (s.algorithm, s.alive, s.failed_at)
        given = of_data(drawn.action, drawn.obs, drawn.reward, drawn.next_obs)
        return eqx.tree_at(where, state, (kept, alive, failed_at)), {**metrics, **given}

    def keys(self, key: Key, iterations: int) -> tuple[Keys, Keys, Keys]:
        """The keys of so many iterations at once, for acting, stepping and learning: a split in each is a kernel."""
        act_key, env_key, learn_key = jax.random.split(key, 3)
        return (
            jax.random.split(act_key, (iterations, self.envs.num)),
            jax.random.split(env_key, iterations),
            jax.random.split(learn_key, (iterations, self.updates_per_step, 2)),
        )

    def iteration(self, state: TrainState, keys: tuple[Keys, Key, Keys]) -> tuple[TrainState, Metrics]:
        """One step of all environments, and the updates after it; `keys` are one entry of each of `self.keys`."""
        act_keys, env_key, learn_keys = keys
        if (held := state.experience.held) is not None:
            held = held.renewed(act_keys, self.noise_repeats, self.noise_exponent)
            state = eqx.tree_at(lambda s: s.experience.held, state, held)
            act_keys = held.keys
        action, statistics = self.act(state, act_keys), state.normaliser
        experience, normaliser, step, learned = self.observe(
            state.experience, statistics, action, env_key, state.algorithm
        )
        if learned is not state.algorithm:
            learned = keep_if(state.alive, state.algorithm, learned)
        state = TrainState(
            algorithm=learned,
            normaliser=normaliser,
            experience=experience,
            key=state.key,
            steps=state.steps + self.envs.num,
            alive=state.alive,
            failed_at=state.failed_at,
        )
        state, metrics = summarised(self.learn, state, learn_keys)
        # A diverged environment must not spoil the statistics that the last finite policy reads.
        if statistics is not None:
            statistics = keep_if(state.alive, statistics, state.normaliser)
            state = eqx.tree_at(lambda s: s.normaliser, state, statistics)
        return state, {**metrics, **of_experience(step)}

    def chunk(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """All steps between two evaluations, with the algorithm's looks at the replay among them."""
        length, looks = self.interval // self.envs.num, self.looks
        key, refresh_key = jax.random.split(state.key)
        fresh = self.envs.refresh(state.experience.envs, refresh_key)
        state = eqx.tree_at(lambda s: (s.key, s.experience.envs), state, (key, fresh))

        def stretch(state: TrainState, _: None) -> tuple[TrainState, Metrics]:
            key, stretch_key = jax.random.split(state.key)
            state = eqx.tree_at(lambda s: s.key, state, key)
            state, metrics = summarised(self.iteration, state, self.keys(stretch_key, length // looks))
            return self.organised(state), metrics

        ended, metrics = summarised(stretch, state, length=looks)
        return settled(state, ended), metrics
