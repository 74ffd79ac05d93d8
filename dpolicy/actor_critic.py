"""The off-policy actor-critic combinator: what an algorithm supplies is its actor loss and how it acts."""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpolicy import _checks
from dpolicy._batch import BATCH_AXIS
from dpolicy._types import Action, Critic, Key, Loss, Metrics, Mode, Model, Number, Observation, Transition
from dpolicy.algorithm import Algorithm, Family, Memory
from dpolicy.ema import ema
from dpolicy.extras import ANNEALS, Extra, FromState, Updated, annealed, resolve
from dpolicy.learner import Learner, adam, descend, learner
from dpolicy.losses import batched, reduce_ensemble, td_target
from dpolicy.networks import ACTIVATIONS, QNetwork, ensemble
from dpolicy.recipe import tunable

# Which ensemble guides the actor, and how it is reduced.
CriticValues: TypeAlias = Literal["online_min", "online_mean", "target_min", "target_mean"]
CRITIC_VALUES = get_args(CriticValues)

# Streams of an example's key that no chain of transforms draws from (its links fold in 0, 1, 2, ...).
_REVISION, _BACKUP = 2**30, 2**30 + 1


class ActorCritic(eqx.Module):
    """Everything an actor-critic carries between updates."""

    actor: Learner
    critic: Learner
    target_critic: Model
    log_temperature: Learner
    updates: Int[Array, "*seeds"]
    extra: dict[str, Any] = eqx.field(default_factory=dict)  # further state of the method, by name


# Draws an action and its log-density, `(actor, q, obs, key) -> (action, log_prob)`, with `q` the online critic (for
# policies that select by it). Policies without a density return zero, which switches entropy terms off.
Policy: TypeAlias = Callable[[Model, Critic, Observation, Key], tuple[Action, Float[Array, ""]]]
# Builds the actor's loss from the critic it improves on and the current temperature.
ActorLoss: TypeAlias = Callable[[Critic, Float[Array, ""]], Loss]


def critic_function(critic: Model, how: str = "min") -> Critic:
    """q(obs, action) -> scalar from an ensemble: its minimum, mean or lower confidence bound."""
    return lambda obs, action: reduce_ensemble(critic(obs, action), how)


def noisy(policy: Policy, std: Number) -> Policy:
    """Additive Gaussian exploration noise: a + std * N(0, I). Environments clip what leaves the action box."""
    _checks.non_negative("exploration_noise", std)

    def act(actor: Model, q: Critic, obs: Observation, key: Key) -> tuple[Action, Float[Array, ""]]:
        policy_key, noise_key = jax.random.split(key)
        action, log_prob = policy(actor, q, obs, policy_key)
        return action + std * jax.random.normal(noise_key, action.shape, action.dtype), log_prob

    return act


def within_box(policy: Policy) -> Policy:
    """`policy` with its action clipped to [-1, 1]: what is stored is then what the environment does."""

    def act(actor: Model, q: Critic, obs: Observation, key: Key) -> tuple[Action, Float[Array, ""]]:
        action, log_prob = policy(actor, q, obs, key)
        return jnp.clip(action, -1.0, 1.0), log_prob

    return act


def acting(actor: Model, policy: Policy) -> Policy:
    """`policy` with the parameters of `actor` in place of those being trained, e.g. their average."""

    def act(_: Model, q: Critic, obs: Observation, key: Key) -> tuple[Action, Float[Array, ""]]:
        return policy(actor, q, obs, key)

    return act


def selecting(q: Critic, policy: Policy) -> Policy:
    """`policy` selecting by `q` in place of the online critic, e.g. by the target critics."""

    def act(actor: Model, _: Critic, obs: Observation, key: Key) -> tuple[Action, Float[Array, ""]]:
        return policy(actor, q, obs, key)

    return act


@tunable(
    "learning_rate",
    "critic_learning_rate",
    "decay_updates",
    "decay_start",
    "decay_share",
    "decay_shape",
    "discount",
    "target_rate",
    "critics",
    "critic_hidden",
    "critic_activation",
    "max_grad_norm",
)
def actor_critic(
    *,
    name: str,
    make_actor: Callable[[Key, Any], Model],
    explore: Policy | FromState,
    evaluate: Policy | FromState,
    actor_loss: ActorLoss | FromState,
    backup: Policy | FromState | None = None,
    extras: Mapping[str, Extra] | None = None,
    remember: Callable[[Transition], dict[str, Any]] | None = None,
    revise: Callable[[Critic, Transition, Key], Transition] | None = None,
    family: Family = "off_policy",
    learning_rate: Number = 3e-4,
    critic_learning_rate: Number = 3e-4,
    decay_updates: Number | None = None,
    decay_start: Number | None = None,
    decay_share: Number | None = None,
    decay_shape: str | None = None,
    critic_hidden: tuple[int, ...] = (256, 256),
    critic_activation: str = "relu",
    critics: int = 2,
    discount: Number = 0.99,
    target_rate: Number = 0.005,
    actor_critic_values: CriticValues = "online_min",
    critic_first: bool = True,
    actor_interval: int = 1,
    temperature: Number | FromState | None = None,
    target_entropy: Callable[[int], Number] | None = None,
    temperature_learning_rate: Number = 3e-4,
    max_grad_norm: Number | None = None,
) -> Algorithm:
    """Twin-critic temporal-difference learning around any actor loss.

    One update on a batch (s, a, r, s', terminated):

        critic       y = r + gamma (1 - terminated) ( min_i Qbar_i(s', a') - lambda log pi(a'|s') ),  a' ~ backup(s')
                     minimise  mean_i (Q_i(s, a) - y)^2
        targets      Qbar <- (1 - target_rate) Qbar + target_rate Q
        actor        minimise  actor_loss(Q, lambda)
        temperature  minimise  log lambda * ( H - target_entropy ),  H = -mean log pi   (with a target entropy)
        extras       state[name] <- follow(state[name], what the update left)                 (with further state)

    A slot that depends on the state (on a reference actor, a tuned temperature, the target critics, the count of
    updates) is given as `FromState(lambda state: ...)`, with `state` the `ActorCritic` before the update. The actor's
    loss finds the next actions of the temporal-difference targets in the example's extras, as "next_action".

    Args:
        name: The algorithm's name.
        make_actor: `(key, spec) -> actor`.
        explore: How it acts while it gathers experience.
        evaluate: How it acts in evaluation.
        actor_loss: `(q, temperature) -> loss`, a per-example loss on the actor; with a target entropy its metrics
            must hold "entropy".
        backup: Draws the next action of the temporal-difference target; `explore` unless given.
        extras: Further state that belongs to the method, by name, each with its rule; see `dpolicy.extras`.
        remember: `transition -> extras`: what is stored beside each transition in the replay, when it is new.
        revise: `(q, example, key) -> example`, with other extras, which replace those stored: what happens to drawn
            transitions before the update sees them, under the critic that guides the actor. Statistics of the batch
            are at hand, as in a loss. Given together with `remember`.
        family: `off_policy`, or `offline` for the same update on a data set.
        learning_rate: Adam's rate for the actor.
        critic_learning_rate: Adam's rate for the critics.
        decay_updates: Updates over which the actor's rate falls; None keeps it (see `annealed`).
        decay_start: Updates before it begins to fall; 0 unless given.
        decay_share: What is left of the rate at the end, as a share; 0 unless given.
        decay_shape: linear or cosine; linear unless given.
        critic_hidden: Widths of each critic's hidden layers.
        critic_activation: Activation of the critics.
        critics: Critics in the ensemble.
        discount: Discount gamma.
        target_rate: Share of the online critics that enters the targets at each update.
        actor_critic_values: Which critic guides the actor: online or target ensemble, reduced by min or mean.
        critic_first: Whether the actor sees the critics and their targets after this update's step (SAC) or before.
        actor_interval: The actor and the target critics move at every so many updates.
        temperature: lambda, fixed, or its start where it is tuned; None for methods that have none in the critic.
        target_entropy: `action_size -> H`; tunes the temperature when given.
        temperature_learning_rate: Adam's rate for log lambda.
        max_grad_norm: Bound on the norm of the actor's gradient, and of the critics', before Adam; None for none.

    Raises:
        ValueError: for a value out of its range.
    """
    _checks.positive("learning_rate", learning_rate)
    _checks.positive("critic_learning_rate", critic_learning_rate)
    _checks.sizes("critic_hidden", critic_hidden)
    _checks.one_of("critic_activation", critic_activation, ACTIVATIONS)
    _checks.boolean("critic_first", critic_first)
    _checks.fraction("discount", discount)
    _checks.fraction("target_rate", target_rate)
    _checks.integer("critics", critics)
    _checks.integer("actor_interval", actor_interval)
    _checks.one_of("actor_critic_values", actor_critic_values, CRITIC_VALUES)
    if temperature is not None and not isinstance(temperature, FromState):
        _checks.positive("temperature", temperature)
        _checks.positive("temperature_learning_rate", temperature_learning_rate)
    if decay_updates is None:
        for setting, value in (("start", decay_start), ("share", decay_share), ("shape", decay_shape)):
            if value is not None:
                raise ValueError(f"decay_{setting} needs decay_updates, got {value!r} without.")
    else:
        _checks.positive("decay_updates", decay_updates)
        if decay_start is not None:
            _checks.non_negative("decay_start", decay_start)
        if decay_share is not None:
            _checks.fraction("decay_share", decay_share)
        if decay_shape is not None:
            _checks.one_of("decay_shape", decay_shape, ANNEALS)
    if (remember is None) != (revise is None):
        raise ValueError("remember and revise must be given together, got one of them.")
    which, how = actor_critic_values.split("_")
    actor_optimiser = adam(learning_rate if decay_updates is None else None, max_grad_norm=max_grad_norm)
    critic_optimiser = adam(critic_learning_rate, max_grad_norm=max_grad_norm)
    temperature_optimiser = adam(temperature_learning_rate)
    followers = {} if extras is None else dict(extras)

    def init(key: Key, spec: Any) -> ActorCritic:
        actor_key, critic_key = jax.random.split(_checks.one_key(key))
        # Far from the two that were split off: fold_in(key, i) may be one of them for a small i.
        critic = ensemble(
            lambda key: QNetwork(
                spec.obs_size, spec.action_size, hidden=critic_hidden, activation=critic_activation, key=key
            ),
            critics,
            key=critic_key,
        )
        tuned = temperature is not None and not isinstance(temperature, FromState)
        start = jnp.log(jnp.asarray(temperature if tuned else 1.0, float))
        actor = make_actor(actor_key, spec)
        extra_keys = [jax.random.fold_in(key, 1_000 + i) for i in range(len(followers))]
        return ActorCritic(
            actor=learner(actor, actor_optimiser),
            critic=learner(critic, critic_optimiser),
            target_critic=critic,
            log_temperature=learner(start, temperature_optimiser),
            updates=jnp.zeros((), jnp.int32),
            extra={
                name: part.start(key, spec, actor)
                for key, (name, part) in zip(extra_keys, followers.items(), strict=True)
            },
        )

    def temperature_of(state: ActorCritic) -> Float[Array, ""]:
        if isinstance(temperature, FromState):
            return resolve(temperature, state)
        return jnp.exp(state.log_temperature.model)

    def act(state: ActorCritic, obs: Observation, key: Key, mode: Mode) -> tuple[Action, dict[str, Any]]:
        _checks.one_of("mode", mode, ("explore", "evaluate"))
        policy = resolve(explore if mode == "explore" else evaluate, state)
        action, _ = policy(state.actor.model, critic_function(state.critic.model), obs, _checks.one_key(key))
        return action, {}

    def td(state: ActorCritic, example: Transition, key: Key) -> tuple[Float[Array, ""], Action]:
        online = critic_function(state.critic.model)
        policy = resolve(backup or explore, state)
        action, log_prob = policy(state.actor.model, online, example.next_obs, key)
        value = critic_function(state.target_critic)(example.next_obs, action)
        if temperature is not None:
            value = value - temperature_of(state) * log_prob
        return td_target(example.reward, example.terminated, value, discount), action

    def rate(state: ActorCritic) -> Float[Array, ""] | None:
        """The actor's rate now, where it decays."""
        if decay_updates is None:
            return None
        begin = 0.0 if decay_start is None else decay_start
        share = 0.0 if decay_share is None else decay_share
        shape = "linear" if decay_shape is None else decay_shape
        return learning_rate * annealed(state.updates, 1.0, share, decay_updates, begin=begin, shape=shape)

    def update_temperature(state: ActorCritic, metrics: Metrics, size: int) -> tuple[Learner, Metrics]:
        if target_entropy is None:
            return state.log_temperature, {}
        gap = metrics["entropy"] - target_entropy(size)
        tuned, _ = descend(state.log_temperature, lambda log: (log * gap, {}), temperature_optimiser)
        return tuned, {"temperature": jnp.exp(tuned.model)}

    def update(state: ActorCritic, batch: Transition, key: Key) -> tuple[ActorCritic, Metrics]:
        td_key, actor_key = jax.random.split(_checks.one_key(key))
        size = batch.reward.shape[0]
        backed_up = jax.vmap(partial(td, state), axis_name=BATCH_AXIS)
        targets, next_action = backed_up(batch, jax.random.split(td_key, size))

        def critic_loss(critic: Model) -> tuple[Float[Array, ""], Metrics]:
            values = jax.vmap(critic)(batch.obs, batch.action)
            loss = jnp.mean((values - targets[:, None]) ** 2)
            return loss, {"loss": loss, "q": jnp.mean(values)}

        critic, critic_metrics = descend(state.critic, critic_loss, critic_optimiser)
        updates = state.updates + 1
        moves = updates % actor_interval == 0

        def delayed(new: Any, old: Any) -> Any:
            if actor_interval == 1:
                return new
            return jax.tree.map(lambda n, o: jnp.where(moves, n, o) if eqx.is_array(n) else n, new, old)

        target_critic = delayed(ema(state.target_critic, critic.model, 1 - target_rate), state.target_critic)
        after = {"online": critic.model, "target": target_critic}
        before = {"online": state.critic.model, "target": state.target_critic}
        guide = critic_function((after if critic_first else before)[which], how)
        loss = batched(resolve(actor_loss, state)(guide, temperature_of(state)))
        examples = dataclasses.replace(batch, extras={**batch.extras, "next_action": next_action})
        now = rate(state)
        actor, metrics = descend(
            state.actor,
            lambda model: loss(model, examples, actor_key),
            actor_optimiser,
            learning_rate=now,
        )
        if now is not None:
            metrics = {**metrics, "learning_rate": now}
        actor = delayed(actor, state.actor)
        log_temperature, temperature_metrics = update_temperature(state, metrics, batch.action.shape[-1])
        extra, extra_metrics = {}, {}
        for name, part in followers.items():
            updated = Updated(actor.model, guide, examples, metrics, updates, moves)
            extra[name], more = part.follow(state.extra[name], updated)
            extra_metrics |= more
        new = ActorCritic(
            actor=actor,
            critic=critic,
            target_critic=target_critic,
            log_temperature=log_temperature,
            updates=updates,
            extra=extra,
        )
        return new, {
            **{f"actor/{key}": value for key, value in metrics.items()},
            **{f"critic/{key}": value for key, value in critic_metrics.items()},
            **temperature_metrics,
            **extra_metrics,
        }

    def with_actor(state: ActorCritic, actor: Model) -> ActorCritic:
        copies = {name: actor for name, part in followers.items() if part.is_actor}
        return dataclasses.replace(
            state, actor=learner(actor, actor_optimiser), extra={**state.extra, **copies}
        )

    def objective(state: ActorCritic, q: Critic) -> tuple[Model, Loss]:
        def alone(obs: Observation, action: Action) -> Float[Array, "1"]:
            return q(obs, action)[None]

        # An ensemble of one: whichever critics the method asks, online or target, min or mean, it asks q.
        state = dataclasses.replace(state, critic=Learner(alone, ()), target_critic=alone)
        loss = resolve(actor_loss, state)(q, temperature_of(state))

        def on_example(model: Model, example: Transition, key: Key) -> tuple[Float[Array, ""], Metrics]:
            extras = example.extras
            if remember is not None and revise is not None:
                # What is stored beside a transition when it is new, unless the example has been stored already.
                example = dataclasses.replace(example, extras={**remember(example), **extras})
                example = revise(q, example, jax.random.fold_in(key, _REVISION))
            if "next_action" not in extras:
                _, action = td(state, example, jax.random.fold_in(key, _BACKUP))
                example = dataclasses.replace(example, extras={**example.extras, "next_action": action})
            return loss(model, example, key)

        return state.actor.model, on_example

    def revised(state: ActorCritic, batch: Transition, key: Key) -> Transition:
        critics = {"online": state.critic.model, "target": state.target_critic}
        rewrite = partial(revise, critic_function(critics[which], how))  # pyright: ignore[reportArgumentType]
        keys = jax.random.split(key, batch.reward.shape[0])
        return jax.vmap(rewrite, axis_name=BATCH_AXIS)(batch, keys)

    memory = None if remember is None else Memory(remember, revised)

    return Algorithm(
        name, family, init, act, update, objective=objective, memory=memory, with_actor=with_actor
    )
