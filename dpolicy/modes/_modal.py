"""A policy that keeps several modes: how it acts, and the improved actions that each mode's critics lead to."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpolicy import _checks
from dpolicy._settings import NonNegative, Positive, at_least
from dpolicy._types import Action, Key, Model, Number, Observation, Transition
from dpolicy.algorithm import Memory, Stored
from dpolicy.blocks import FieldPolicy
from dpolicy.learning import Acting, Parts, Seen, Stage, labelled, labelled_batch
from dpolicy.losses import gradient_ascent
from dpolicy.modes._critics import GroupedCritics, mean_weight
from dpolicy.modes._discovery import Discovery
from dpolicy.modes._groups import bounded_by_group, by_group, shares
from dpolicy.recipe import tunable

_INSIDE = 1 - 1e-5  # improved actions stay this far inside the box


class _Sizes(NamedTuple):
    obs_size: int
    action_size: int


class ModalPolicy(NamedTuple):
    """A policy of observations with the embedding z of a mode beside them: what it sees, and how it acts.

    Attributes:
        policy: The field policy.
        discovery: How modes are found.
        low: Standard deviation of the exploration noise in the first environment.
        high: The same in the last.
        updates: Updates after which it no longer acts under the exploring group's embedding.
        smoothing: Standard deviation of the noise on the next action of the critics' target, and its bound.
    """

    policy: FieldPolicy
    discovery: Discovery
    low: Number
    high: Number
    updates: Number
    smoothing: tuple[Number, Number]

    def make(self, key: Key, spec: Any) -> Model:
        """The field, `(key, spec) -> field`."""
        size = jax.eval_shape(self.discovery.start, key).embedding.shape[1]
        return self.policy.make(key, _Sizes(spec.obs_size + size, spec.action_size))

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

    def grouped(self) -> Stage:
        """The "group" of each row of a batch, and "z", which is nothing in every other row of a mode."""

        def label(s: Seen, key: Key) -> dict[str, Any]:
            modes = s.before.discovered
            group = shares(modes.live, s.batch.reward.shape[0])
            hidden = (group > 0) & (jnp.arange(group.shape[0]) % 2 == 0)
            return {"group": group, "z": jnp.where(hidden[:, None], 0, modes.embedding[group])}

        return labelled_batch(label)

    def next_action(self) -> Stage:
        """The "next_action" of each row under its z, with the smoothing noise."""

        def draw(s: Seen, example: Transition, key: Key) -> dict[str, Any]:
            z = example.extras["z"]
            return {"next_action": self.sample(s.before.actor, example.next_obs, z, *self.smoothing, key)}

        return labelled(draw)

    def improved(self, example: Transition) -> Transition:
        """The transition as the loss of the actor sees it: z beside observations, the improved action of its group."""
        z, action = example.extras["z"], example.extras["improved"][example.extras["group"]]
        obs, next_obs = (jnp.concatenate([obs, z]) for obs in (example.obs, example.next_obs))
        return dataclasses.replace(example, obs=obs, next_obs=next_obs, action=action)


@tunable("exploration_low", "exploration_high", "exploration_updates", "smoothing_std", "smoothing_clip")
def modal_policy(
    *,
    policy: FieldPolicy,
    discovery: Discovery,
    exploration_low: NonNegative = 0.05,
    exploration_high: NonNegative = 0.6,
    exploration_updates: NonNegative = 87_500,
    smoothing_std: NonNegative = 0.8,
    smoothing_clip: NonNegative = 0.2,
) -> ModalPolicy:
    """A policy conditioned on modes (DDiffPG, arXiv 2406.00681).

    Args:
        policy: The field policy.
        discovery: How modes are found.
        exploration_low: Standard deviation of the exploration noise in the first environment.
        exploration_high: The same in the last one; those between are evenly spaced.
        exploration_updates: Updates after which it no longer acts under z_0 (published: 70 % of the run).
        smoothing_std: Standard deviation of the noise on the next action of the critics' target.
        smoothing_clip: Bound of that noise.

    Raises:
        ValueError: For a value out of its range.
    """
    _checks.ordered("exploration_low", exploration_low, "exploration_high", exploration_high)
    noise = exploration_low, exploration_high, exploration_updates
    return ModalPolicy(policy, discovery, *noise, (smoothing_std, smoothing_clip))


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
    ascent_steps: Annotated[int, at_least(0)] = 20,
    ascent_rate: Positive = 0.03,
    ascent_norm: Positive | None = 1.0,
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
    return GroupedImprovement(critics, discovery, ascent_steps, ascent_rate, ascent_norm)
