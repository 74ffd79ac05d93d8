"""The common case off policy as one composition: critic, target, actor, and a temperature where there is one."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._settings import Count, Positive
from dpolicy._types import Critic, Key, Loss, Model, Number
from dpolicy.algorithm import Algorithm, Family
from dpolicy.blocks._actor_optimiser import actor_optimiser
from dpolicy.blocks._bootstrap import Policy, next_value
from dpolicy.blocks._critic_function import critic_function
from dpolicy.blocks._critics import Critics, CriticValues, acting, guide, q_critics
from dpolicy.learning import Seen, algorithm, every, trained, tuned
from dpolicy.optimisers import adam
from dpolicy.recipe import composed

# Builds the actor's loss from the critic it improves on and the current temperature.
ActorLoss: TypeAlias = Callable[[Critic, Float[Array, ""]], Loss]


@composed(actor_optimiser, q_critics)
def actor_critic(
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    name: str,
    make_actor: Callable[[Key, Any], Model],
    explore: Policy,
    evaluate: Policy,
    actor_loss: ActorLoss,
    backup: Policy | None = None,
    family: Family = "off_policy",
    actor_critic_values: CriticValues = "online_min",
    critic_first: bool = True,
    actor_interval: Count = 1,
    temperature: Positive | Callable[[Seen], Number] | None = None,
    target_entropy: Callable[[int], Number] | None = None,
    temperature_learning_rate: Positive = 3e-4,
) -> Algorithm:
    """Twin-critic temporal-difference learning around any actor loss: four stages, for the common case.

    One update on a batch (s, a, r, s', terminated):

        critic       y = r + gamma (1 - terminated) ( min_i Qbar_i(s', a') - lambda log pi(a'|s') ),  a' ~ backup(s')
                     minimise  mean_i (Q_i(s, a) - y)^2
        target       Qbar <- (1 - target_rate) Qbar + target_rate Q
        actor        minimise  actor_loss(Q, lambda)
        temperature  minimise  log lambda * ( H - target_entropy ),  H = -mean log pi   (with a target entropy)

    A method whose slots depend on more of the state (an average of the actor, a schedule, statistics of Q), or that has
    further parts or another order, is written with `algorithm` and the same stages.

    Args:
        name: The algorithm's name.
        make_actor: `(key, spec) -> actor`.
        explore: How it acts while it gathers experience; see `Policy`.
        evaluate: How it acts in evaluation.
        actor_loss: `(q, temperature) -> loss`, a per-example loss on the actor; with a target entropy its metrics must
            hold "entropy".
        backup: Draws the next action of the temporal-difference target; `explore` unless given.
        family: `off_policy`, or `offline` for the same update on a data set.
        actor_critic_values: Which critic guides the actor: online or target ensemble, reduced by min or mean.
        critic_first: Whether the actor sees the critics and their targets after this update's step (SAC) or before.
        actor_interval: The actor and the target critics move at every so many updates.
        temperature: lambda: a number, which is its start where it is tuned; `seen -> lambda`, for a schedule; or None
            for methods that have none in the critic.
        target_entropy: `action_size -> H`; tunes the temperature when given.
        temperature_learning_rate: Adam's rate for log lambda.

    Raises:
        ValueError: For a value out of its range.
    """
    for slot, policy in (("explore", explore), ("evaluate", evaluate), ("backup", backup or explore)):
        _checks.slot(slot, policy, 4, "(actor, q, obs, key) -> (action, log_prob)")
    _checks.slot("actor_loss", actor_loss, 2, "(q, temperature) -> loss")
    if callable(temperature):
        _checks.slot("temperature", temperature, 1, "seen -> temperature")
    if target_entropy is not None and (temperature is None or callable(temperature)):
        raise ValueError(f"target_entropy needs a number as the temperature's start, got {temperature!r}.")
    critics = make_critics()

    def value_of(seen: Seen) -> Number | None:
        if callable(temperature):
            return temperature(seen)
        return temperature if target_entropy is None else seen.before.temperature

    def bootstrap(s: Seen) -> Any:
        q, target = critic_function(s.before.critic), critic_function(s.before.target)
        return next_value(backup or explore, s.before.actor, q, target, value_of(s))

    def improve(s: Seen) -> Loss:
        q = guide(s.now if critic_first else s.before, actor_critic_values)
        scale = value_of(s)
        return actor_loss(q, jnp.asarray(1.0 if scale is None else scale, float))

    stages: dict[str, Any] = {
        "critic": critics.fitted(bootstrap),
        "target": every(critics.averaged(), actor_interval),
        "actor": every(trained(make_actor, improve, make_optimiser()), actor_interval),
    }
    if target_entropy is not None:
        gap = lambda s: s.metrics["actor/entropy"] - target_entropy(s.batch.action.shape[-1])
        stages["temperature"] = tuned(temperature, gap, adam(temperature_learning_rate))  # pyright: ignore[reportArgumentType]  (checked above)
    return algorithm(
        name,
        family,
        explore=lambda s: acting(explore, s.actor, critic_function(s.critic)),
        evaluate=lambda s: acting(evaluate, s.actor, critic_function(s.critic)),
        **stages,
    )
