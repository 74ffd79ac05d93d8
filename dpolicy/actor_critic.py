"""The off-policy actor-critic combinator: what an algorithm supplies is its actor loss and how it acts."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpolicy import _checks
from dpolicy._types import Action, Critic, Key, Loss, Metrics, Mode, Model, Number, Observation, Transition
from dpolicy.algorithm import Algorithm, Family
from dpolicy.critics import QNetwork
from dpolicy.ema import ema
from dpolicy.learner import Learner, adam, descend, learner
from dpolicy.losses import batched, reduce_ensemble, td_target
from dpolicy.networks import ACTIVATIONS, ensemble
from dpolicy.recipe import tunable


class ActorCritic(eqx.Module):
    """Everything an actor-critic carries between updates."""

    actor: Learner
    critic: Learner
    target_critic: Model
    log_temperature: Learner
    updates: Int[Array, "*seeds"]


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


@tunable(
    "learning_rate",
    "critic_learning_rate",
    "discount",
    "target_rate",
    "critics",
    "critic_hidden",
    "critic_activation",
)
def actor_critic(
    *,
    name: str,
    make_actor: Callable[[Key, Any], Model],
    explore: Policy,
    evaluate: Policy,
    actor_loss: ActorLoss,
    backup: Policy | None = None,
    family: Family = "off_policy",
    learning_rate: Number = 3e-4,
    critic_learning_rate: Number = 3e-4,
    critic_hidden: tuple[int, ...] = (256, 256),
    critic_activation: str = "relu",
    critics: int = 2,
    discount: Number = 0.99,
    target_rate: Number = 0.005,
    actor_critic_values: Literal["online_min", "online_mean", "target_min", "target_mean"] = "online_min",
    critic_first: bool = True,
    temperature: Number | None = None,
    target_entropy: Callable[[int], Number] | None = None,
    temperature_learning_rate: Number = 3e-4,
) -> Algorithm:
    """Twin-critic temporal-difference learning around any actor loss.

    One update on a batch (s, a, r, s', terminated):

        critic       y = r + gamma (1 - terminated) ( min_i Qbar_i(s', a') - lambda log pi(a'|s') ),  a' ~ backup(s')
                     minimise  mean_i (Q_i(s, a) - y)^2
        targets      Qbar <- (1 - target_rate) Qbar + target_rate Q
        actor        minimise  actor_loss(Q, lambda)
        temperature  minimise  log lambda * ( H - target_entropy ),  H = -mean log pi   (with a target entropy)

    Args:
        name: The algorithm's name.
        make_actor: `(key, spec) -> actor`.
        explore: How it acts while it gathers experience.
        evaluate: How it acts in evaluation.
        actor_loss: `(q, temperature) -> loss`, a per-example loss on the actor; with a target entropy its metrics
            must hold "entropy".
        backup: Draws the next action of the temporal-difference target; `explore` unless given.
        family: `off_policy`, or `offline` for the same update on a data set.
        learning_rate: Adam's rate for the actor.
        critic_learning_rate: Adam's rate for the critics.
        critic_hidden: Widths of each critic's hidden layers.
        critic_activation: Activation of the critics.
        critics: Critics in the ensemble.
        discount: Discount gamma.
        target_rate: Share of the online critics that enters the targets at each update.
        actor_critic_values: Which critic guides the actor: online or target ensemble, reduced by min or mean.
        critic_first: Whether the actor sees the critics and their targets after this update's step (SAC) or before.
        temperature: lambda, fixed, or its start where it is tuned; None for methods that have none in the critic.
        target_entropy: `action_size -> H`; tunes the temperature when given.
        temperature_learning_rate: Adam's rate for log lambda.

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
    _checks.one_of(
        "actor_critic_values", actor_critic_values, ("online_min", "online_mean", "target_min", "target_mean")
    )
    if temperature is not None:
        _checks.positive("temperature", temperature)
        _checks.positive("temperature_learning_rate", temperature_learning_rate)
    which, how = actor_critic_values.split("_")
    actor_optimiser = adam(learning_rate)
    critic_optimiser = adam(critic_learning_rate)
    temperature_optimiser = adam(temperature_learning_rate)

    def init(key: Key, spec: Any) -> ActorCritic:
        actor_key, critic_key = jax.random.split(key)
        critic = ensemble(
            lambda key: QNetwork(
                spec.obs_size, spec.action_size, hidden=critic_hidden, activation=critic_activation, key=key
            ),
            critics,
            key=critic_key,
        )
        start = jnp.log(jnp.asarray(1.0 if temperature is None else temperature, float))
        return ActorCritic(
            actor=learner(make_actor(actor_key, spec), actor_optimiser),
            critic=learner(critic, critic_optimiser),
            target_critic=critic,
            log_temperature=learner(start, temperature_optimiser),
            updates=jnp.zeros((), jnp.int32),
        )

    def act(state: ActorCritic, obs: Observation, key: Key, mode: Mode) -> tuple[Action, dict[str, Any]]:
        _checks.one_of("mode", mode, ("explore", "evaluate"))
        policy = explore if mode == "explore" else evaluate
        action, _ = policy(state.actor.model, critic_function(state.critic.model), obs, key)
        return action, {}

    def td(state: ActorCritic, example: Transition, key: Key) -> Float[Array, ""]:
        online = critic_function(state.critic.model)
        action, log_prob = (backup or explore)(state.actor.model, online, example.next_obs, key)
        value = critic_function(state.target_critic)(example.next_obs, action)
        if temperature is not None:
            value = value - jnp.exp(state.log_temperature.model) * log_prob
        return td_target(example.reward, example.terminated, value, discount)

    def update_temperature(state: ActorCritic, metrics: Metrics, size: int) -> tuple[Learner, Metrics]:
        if target_entropy is None:
            return state.log_temperature, {}
        gap = metrics["entropy"] - target_entropy(size)
        tuned, _ = descend(state.log_temperature, lambda log: (log * gap, {}), temperature_optimiser)
        return tuned, {"temperature": jnp.exp(tuned.model)}

    def update(state: ActorCritic, batch: Transition, key: Key) -> tuple[ActorCritic, Metrics]:
        td_key, actor_key = jax.random.split(key)
        size = batch.reward.shape[0]
        targets = jax.vmap(partial(td, state))(batch, jax.random.split(td_key, size))

        def critic_loss(critic: Model) -> tuple[Float[Array, ""], Metrics]:
            values = jax.vmap(critic)(batch.obs, batch.action)
            loss = jnp.mean((values - targets[:, None]) ** 2)
            return loss, {"loss": loss, "q": jnp.mean(values)}

        critic, critic_metrics = descend(state.critic, critic_loss, critic_optimiser)
        target_critic = ema(state.target_critic, critic.model, 1 - target_rate)
        after = {"online": critic.model, "target": target_critic}
        before = {"online": state.critic.model, "target": state.target_critic}
        guide = critic_function((after if critic_first else before)[which], how)
        loss = batched(actor_loss(guide, jnp.exp(state.log_temperature.model)))
        actor, metrics = descend(state.actor, lambda model: loss(model, batch, actor_key), actor_optimiser)
        log_temperature, temperature_metrics = update_temperature(state, metrics, batch.action.shape[-1])
        new = ActorCritic(
            actor=actor,
            critic=critic,
            target_critic=target_critic,
            log_temperature=log_temperature,
            updates=state.updates + 1,
        )
        return new, {
            **{f"actor/{key}": value for key, value in metrics.items()},
            **{f"critic/{key}": value for key, value in critic_metrics.items()},
            **temperature_metrics,
        }

    def objective(state: ActorCritic, q: Critic) -> tuple[Model, Loss]:
        return state.actor.model, actor_loss(q, jnp.exp(state.log_temperature.model))

    return Algorithm(name, family, init, act, update, objective=objective)
