"""A policy that keeps several modes: how it acts, and the improved actions that each mode's critics lead to."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpolicy import _checks
from dpolicy._types import Action, Key, Model, Number, Observation, Transition
from dpolicy.algorithm import Memory, Stored
from dpolicy.blocks import FieldPolicy
from dpolicy.learning import Acting, Parts
from dpolicy.losses import gradient_ascent
from dpolicy.modes._critics import GroupedCritics, mean_weight
from dpolicy.modes._discovery import Discovery
from dpolicy.modes._groups import bounded_by_group, by_group, shares
from dpolicy.recipe import tunable

_INSIDE = 1 - 1e-5  # improved actions stay this far inside the box


class ModalActing(NamedTuple):
    """How it acts: noise by the environment's place, and the group whose embedding it is conditioned on.

    Attributes:
        policy: The field policy, of observations with an embedding beside them.
        low: Standard deviation of the exploration noise in the first environment.
        high: The same in the last.
        updates: Updates after which it no longer acts under the exploring group's embedding.
    """

    policy: FieldPolicy
    low: Number
    high: Number
    updates: Number

    def sample(
        self, actor: Model, obs: Observation, z: Float[Array, " z"], std: Number, bound: Any, key: Key
    ) -> Action:
        """A sample under z, with noise that `bound` cuts off, inside the box."""
        sample_key, noise_key = jax.random.split(key)
        action = self.policy.sample(actor, jnp.concatenate([obs, z]), sample_key)
        noise = std * jax.random.normal(noise_key, action.shape, action.dtype)
        return jnp.clip(action + (noise if bound is None else jnp.clip(noise, -bound, bound)), -1.0, 1.0)

    def explore(self, parts: Parts) -> Callable[..., Action]:
        """With noise by the environment's place, and for a share of the draws under the exploring group's embedding."""

        def act(obs: Observation, key: Key, place: Any) -> Action:
            act_key, share_key = jax.random.split(key)
            # One in as many as there are groups, as if the exploring group were one of them.
            share = jnp.where(parts.updates < self.updates, 1 / jnp.sum(parts.discovered.live), 0)
            z = jnp.where(jax.random.uniform(share_key) < share, parts.discovered.embedding[0], 0)
            std = self.low + place * (self.high - self.low)
            return self.sample(parts.actor, obs, z, std, None, act_key)

        return act

    def as_mode(self, group: int) -> Acting:
        """Without noise under the embedding of a group, or under none for group 0 and for one that is not in use."""

        def acting(parts: Parts) -> Callable[[Observation, Key], Action]:
            # A place that is not in use holds an old or random embedding, which must not steer.
            z = jnp.where(parts.discovered.live[group] & (group > 0), parts.discovered.embedding[group], 0)
            return lambda obs, key: self.sample(parts.actor, obs, z, 0.0, None, key)

        return acting


@tunable("exploration_low", "exploration_high", "exploration_updates")
def modal_acting(
    *,
    policy: FieldPolicy,
    exploration_low: Number = 0.05,
    exploration_high: Number = 0.6,
    exploration_updates: Number = 87_500,
) -> ModalActing:
    """How a policy conditioned on modes acts (DDiffPG, arXiv 2406.00681).

    Args:
        policy: The field policy.
        exploration_low: Standard deviation of the exploration noise in the first environment.
        exploration_high: The same in the last one; those between are evenly spaced.
        exploration_updates: Updates after which it no longer acts under z_0 (published: 70 % of the run).

    Raises:
        ValueError: For a value out of its range.
    """
    low, high = exploration_low, exploration_high
    for name, value in (("low", low), ("high", high), ("updates", exploration_updates)):
        _checks.non_negative(f"exploration_{name}", value)
    _checks.ordered("exploration_low", low, "exploration_high", high)
    return ModalActing(policy, low, high, exploration_updates)


class GroupedImprovement(NamedTuple):
    """What is stored beside every action: an improved one for each group, which climbs that group's critics.

    Attributes:
        critics: The critics.
        discovery: How modes are found.
        steps: Adam steps for each transition that is drawn.
        rate: Adam's rate.
        norm: Bound on the norm of the gradient of a group's mean Q; None for none.
    """

    critics: GroupedCritics
    discovery: Discovery
    steps: int
    rate: Number
    norm: Number | None

    def remember(self, transition: Transition) -> dict[str, Any]:
        """At first the action itself, for every group; and whether a clustering has seen the transition."""
        # A column for each group, in use or not: what is stored has one shape, whatever will be discovered.
        copies = jnp.tile(transition.action[None], (self.discovery.groups, 1))
        return {"improved": copies, "seen": jnp.zeros((), bool)}

    def climb(
        self, q: Callable[..., Float[Array, " b"]], start: Float[Array, "b a"], group: Int[Array, " b"]
    ) -> Float[Array, "b a"]:
        """Improved actions of a batch: each group climbs its mean of q(actions)."""
        weight, groups, limit = mean_weight(group, self.discovery.groups), self.discovery.groups, None
        if self.norm is not None:
            limit = partial(bounded_by_group, group=group, groups=groups, bound=self.norm)
        return gradient_ascent(
            lambda actions: jnp.sum(weight * q(actions)),
            start,
            steps=self.steps,
            rate=self.rate,
            bound=_INSIDE,
            limit=limit,
        )

    def revise(self, state: Parts, batch: Transition, key: Key) -> Transition:
        """Each drawn transition's improved action, of the group that it was drawn for, climbs on."""
        group = shares(state.discovered.live, batch.reward.shape[0])
        row, improved = jnp.arange(group.shape[0]), batch.extras["improved"]
        q = partial(by_group, self.critics.lower_mean, state.critic, state.discovered.live, batch.obs)
        # Only the column of the group that it was drawn for; the others wait for their own draws.
        improved = improved.at[row, group].set(self.climb(q, improved[row, group], group))
        return dataclasses.replace(batch, extras={**batch.extras, "improved": improved})

    def draw(self, state: Parts, stored: Stored, key: Key, batch_size: int) -> Int[Array, " batch"]:
        """Rows in equal shares of the groups."""
        return self.discovery.draw(state.discovered, stored, key, batch_size)

    def organise(self, state: Parts, stored: Stored, key: Key) -> tuple[Parts, dict[str, Any]]:
        """Find the modes of what is stored; each group inherits critics, their optimiser and improved actions."""
        extras = stored.items.extras
        modes, heirs = self.discovery.look(state.discovered, stored, extras["seen"], key)
        # Its optimiser's moments with it: they belong to the parameters that are inherited.
        inherit = lambda leaf: leaf[heirs.source] if eqx.is_array(leaf) else leaf
        critic, target = jax.tree.map(inherit, (state["critic"], state.target))
        seen = {"improved": extras["improved"][:, heirs.source], "seen": jnp.ones_like(extras["seen"])}
        return Parts(state, critic=critic, target=target, discovered=modes), seen

    def memory(self) -> Memory:
        """All of it, as an algorithm keeps it beside its replay."""
        return Memory(self.remember, self.revise, self.draw, self.organise, self.discovery.interval)


@tunable("ascent_steps", "ascent_rate", "ascent_norm")
def grouped_improvement(
    *,
    critics: GroupedCritics,
    discovery: Discovery,
    ascent_steps: int = 20,
    ascent_rate: Number = 0.03,
    ascent_norm: Number | None = 1.0,
) -> GroupedImprovement:
    """Improved actions by ascent of each group's critics (DDiffPG, arXiv 2406.00681).

    Args:
        critics: The critics.
        discovery: How modes are found.
        ascent_steps: Adam steps on the improved actions per update.
        ascent_rate: Adam's rate there; a coordinate moves by at most about steps times rate.
        ascent_norm: Bound on the norm of the gradient of a group's mean Q; None for none.

    Raises:
        ValueError: For a value out of its range.
    """
    _checks.integer("ascent_steps", ascent_steps, 0)
    _checks.positive("ascent_rate", ascent_rate)
    if ascent_norm is not None:
        _checks.positive("ascent_norm", ascent_norm)
    return GroupedImprovement(critics, discovery, ascent_steps, ascent_rate, ascent_norm)
