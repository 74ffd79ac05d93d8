"""DDiffPG: a diffusion policy that keeps every mode of behaviour it has discovered."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from dpolicy import _checks
from dpolicy._types import Action, Key, Metrics, Model, Number, Observation, Transition
from dpolicy.algorithm import Algorithm, Memory, Stored
from dpolicy.learning import (
    Acting,
    FieldPolicy,
    Parts,
    Seen,
    Stage,
    adam,
    algorithm,
    field_policy,
    frozen,
    labelled,
    labelled_batch,
    reported,
    trained,
)
from dpolicy.losses import given, gradient_ascent, matching, perturb
from dpolicy.losses.times import grid_times
from dpolicy.modes import (
    Discovery,
    GroupedCritics,
    Modes,
    Novelty,
    bounded_by_group,
    by_group,
    grouped_critics,
    mean_weight,
    mode_discovery,
    novelty_reward,
    shares,
)
from dpolicy.recipe import composed

_INSIDE = 1 - 1e-5  # improved actions stay this far inside the box


class _Sizes(NamedTuple):
    obs_size: int
    action_size: int


def _with_z(example: Transition, z: Float[Array, " z"], action: Action) -> Transition:
    """The transition as the actor's loss sees it: observations with z beside them, and this action."""
    obs, next_obs = (jnp.concatenate([obs, z]) for obs in (example.obs, example.next_obs))
    return dataclasses.replace(example, obs=obs, next_obs=next_obs, action=action)


def _condition(s: Seen, key: Key) -> dict[str, Any]:
    """The group of each row, and what the policy is conditioned on there: nothing in every other row of a mode."""
    modes: Modes = s.before.discovered
    group = shares(modes.live, s.batch.reward.shape[0])
    hidden = (group > 0) & (jnp.arange(group.shape[0]) % 2 == 0)
    return {"group": group, "z": jnp.where(hidden[:, None], 0, modes.embedding[group])}


class _Acting(NamedTuple):
    """How it acts: noise by the environment's place, and the group whose embedding it is conditioned on."""

    policy: FieldPolicy
    low: Number
    high: Number
    updates: Number

    def sample(
        self, actor: Model, obs: Observation, z: Float[Array, " z"], std: Number, bound: Any, key: Key
    ) -> Action:
        sample_key, noise_key = jax.random.split(key)
        action = self.policy.sample(actor, jnp.concatenate([obs, z]), sample_key)
        noise = std * jax.random.normal(noise_key, action.shape, action.dtype)
        return jnp.clip(action + (noise if bound is None else jnp.clip(noise, -bound, bound)), -1.0, 1.0)

    def explore(self, parts: Parts) -> Callable[..., Action]:
        def act(obs: Observation, key: Key, place: Any) -> Action:
            act_key, share_key = jax.random.split(key)
            share = jnp.where(parts.updates < self.updates, 1 / jnp.sum(parts.discovered.live), 0)
            z = jnp.where(jax.random.uniform(share_key) < share, parts.discovered.embedding[0], 0)
            std = self.low + place * (self.high - self.low)
            return self.sample(parts.actor, obs, z, std, None, act_key)

        return act

    def as_mode(self, group: int) -> Acting:
        def acting(parts: Parts) -> Callable[[Observation, Key], Action]:
            z = jnp.where(parts.discovered.live[group] & (group > 0), parts.discovered.embedding[group], 0)
            return lambda obs, key: self.sample(parts.actor, obs, z, 0.0, None, key)

        return acting


class _Improvement(NamedTuple):
    """What is stored beside every action: an improved one for each group, which climbs that group's critics."""

    critics: GroupedCritics
    discovery: Discovery
    steps: int
    rate: Number
    norm: Number | None

    def remember(self, transition: Transition) -> dict[str, Any]:
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
        group = shares(state.discovered.live, batch.reward.shape[0])
        row, improved = jnp.arange(group.shape[0]), batch.extras["improved"]
        q = partial(by_group, self.critics.lower_mean, state.critic, state.discovered.live, batch.obs)
        improved = improved.at[row, group].set(self.climb(q, improved[row, group], group))
        return dataclasses.replace(batch, extras={**batch.extras, "improved": improved})

    def draw(self, state: Parts, stored: Stored, key: Key, batch_size: int) -> Int[Array, " batch"]:
        return self.discovery.draw(state.discovered, stored, key, batch_size)

    def organise(self, state: Parts, stored: Stored, key: Key) -> tuple[Parts, dict[str, Any]]:
        extras = stored.items.extras
        modes, heirs = self.discovery.look(state.discovered, stored, extras["seen"], key)
        inherit = lambda leaf: leaf[heirs.source] if eqx.is_array(leaf) else leaf
        critic, target = jax.tree.map(inherit, (state["critic"], state.target))
        seen = {"improved": extras["improved"][:, heirs.source], "seen": jnp.ones_like(extras["seen"])}
        return Parts(state, critic=critic, target=target, discovered=modes), seen


def _learned(novelty: Novelty) -> Stage:
    """What the batch shows is less new from then on."""

    def step(part: Any, s: Seen, key: Key) -> tuple[Any, dict[str, Any], Metrics]:
        part, metrics = novelty.fit(part, s.batch)
        return part, {}, {**metrics, "reward": jnp.mean(s.batch.extras["intrinsic"])}

    return Stage(lambda key, spec, parts: novelty.start(key, spec), step)


@composed(
    field_policy,
    mode_discovery,
    novelty_reward,
    grouped_critics,
    schedule="discrete_cosine",
    sampler="ddpm_posterior",
    hidden=(1024, 512, 256),
)
def ddiffpg(
    make_field: Callable[..., FieldPolicy],
    make_discovery: Callable[..., Discovery],
    make_novelty: Callable[..., Novelty],
    make_critics: Callable[..., GroupedCritics],
    *,
    sampler_steps: int = 5,
    ascent_steps: int = 20,
    ascent_rate: Number = 0.03,
    ascent_norm: Number | None = 1.0,
    exploration_low: Number = 0.05,
    exploration_high: Number = 0.6,
    exploration_updates: Number = 87_500,
    learning_rate: Number = 3e-4,
    max_grad_norm: Number | None = 1.0,
    weight_decay: Number = 0.01,
    smoothing_std: Number = 0.8,
    smoothing_clip: Number = 0.2,
) -> Algorithm:
    r"""DDiffPG: cluster episodes into modes, and improve each mode by a critic of its own (arXiv 2406.00681).

    Group 0 explores and holds everything; a group g >= 1 holds the episodes of one cluster. A batch is split evenly
    among the groups. Each has twin critics, an improved action b_g beside every stored action a (at first a itself)
    and a random embedding z_g; one diffusion policy, conditioned on it, is fitted to all of them:

    $$ r_0 = r_{int}, \qquad r_g = r + r_{int}, \qquad
       b_g \leftarrow \mathrm{clip}(b_g + \mathrm{Adam}(\nabla Q_g(s, b_g)), -1, 1), $$
    $$ L = \| \epsilon_\theta(\alpha_t b_g + \sigma_t \epsilon, t, [s, z_g]) - \epsilon \|^2, $$

    where r_int is `dpolicy.novelty.novelty_reward`, Q_g the smaller mean of two categorical critics, and z_g zero on
    every other row of a mode, in the critics' next actions too, so that z = 0 samples all modes alike. The critics'
    target is the element-wise minimum of the two projected laws at a noised action of the current policy (no averaged
    actor); it need not sum to one, which their loss allows for. It acts under z_0, or with a probability of one minus
    the exploring share under z = 0 (always, after `exploration_updates`), with noise that grows from the first
    environment to the last. "evaluate" acts under z = 0, and "mode_1", ... under z_1, ... (under z = 0 while there is
    no such mode).

    Modes come from `dpolicy.discovery.mode_discovery`, which says how it differs from a clustering on the host. A new
    mode continues critics, optimiser state and improved actions of the one with which it shares most successes, or of
    group 0. Further differences from the published code: group 0 draws from all that the replay, a ring, holds (there
    from the episodes that modes are made of, and running ones); the ascent sees the critics after the previous update's
    step; where two groups draw one transition at once, the improved action of the first is kept; every heir of a mode
    inherits the optimiser's state (there only the first). Published runs take 8 updates of 4096
    transitions per step of 256 environments, and leave z_g = 0 for all modes by default.

    Args:
        sampler_steps: Sampler steps; training times are those at which the sampler evaluates the field.
        ascent_steps: Adam steps on the improved actions per update.
        ascent_rate: Adam's rate there; a coordinate moves by at most about steps times rate.
        ascent_norm: Bound on the norm of the gradient of a group's mean Q; None for none.
        exploration_low: Standard deviation of the exploration noise in the first environment.
        exploration_high: The same in the last one; those between are evenly spaced.
        exploration_updates: Updates after which it no longer acts under z_0 (published: 70 % of the run).
        learning_rate: Adam's rate for the actor.
        max_grad_norm: Bound on the norm of each gradient: the actor's, one group's critics', the novelty predictor's;
            None for none.
        weight_decay: Decoupled weight decay of all networks.
        smoothing_std: Standard deviation of the noise on the next action of the critics' target.
        smoothing_clip: Bound of that noise.
    """
    _checks.integer("ascent_steps", ascent_steps, 0)
    _checks.positive("ascent_rate", ascent_rate)
    _checks.positive("learning_rate", learning_rate)
    if ascent_norm is not None:
        _checks.positive("ascent_norm", ascent_norm)
    for name, value in (
        ("exploration_low", exploration_low),
        ("exploration_high", exploration_high),
        ("exploration_updates", exploration_updates),
        ("smoothing_std", smoothing_std),
        ("smoothing_clip", smoothing_clip),
    ):
        _checks.non_negative(name, value)
    _checks.ordered("exploration_low", exploration_low, "exploration_high", exploration_high)
    policy, discovery = make_field(sampler_steps=sampler_steps), make_discovery()
    bounds: dict[str, Any] = {"max_grad_norm": max_grad_norm, "weight_decay": weight_decay}
    novelty, critics = make_novelty(**bounds), make_critics(groups=discovery.groups, **bounds)
    acting = _Acting(policy, exploration_low, exploration_high, exploration_updates)
    improvement = _Improvement(critics, discovery, ascent_steps, ascent_rate, ascent_norm)
    fit = matching(perturb(policy.schedule, times=grid_times(sampler_steps)))

    def make_actor(key: Key, spec: Any) -> Model:
        size = jax.eval_shape(discovery.start, key).embedding.shape[1]
        return policy.make(key, _Sizes(spec.obs_size + size, spec.action_size))

    def rewards(s: Seen, example: Transition, key: Key) -> dict[str, Any]:
        bonus = novelty.reward(s.before.novelty, example)
        return {
            "intrinsic": bonus,
            "reward": jnp.where(example.extras["group"] > 0, example.reward, 0) + bonus,
        }

    def smoothed(s: Seen, example: Transition, key: Key) -> dict[str, Any]:
        z = example.extras["z"]
        sample = partial(acting.sample, s.before.actor, example.next_obs, z, smoothing_std, smoothing_clip)
        return {"next_action": sample(key)}

    def improved(example: Transition) -> Transition:
        return _with_z(example, example.extras["z"], example.extras["improved"][example.extras["group"]])

    return algorithm(
        "ddiffpg",
        "off_policy",
        explore=acting.explore,
        evaluate=acting.as_mode(0),
        modes={f"mode_{group}": acting.as_mode(group) for group in range(1, discovery.groups)},
        memory=Memory(
            improvement.remember,
            improvement.revise,
            improvement.draw,
            improvement.organise,
            discovery.interval,
        ),
        discovered=frozen(lambda key, spec: discovery.start(key)),
        groups=labelled_batch(_condition),
        rewards=labelled(rewards),
        next_action=labelled(smoothed),
        critic=critics.fitted(),
        actor=trained(make_actor, lambda s: given(improved, fit), adam(learning_rate, **bounds)),
        target=critics.averaged(),
        novelty=_learned(novelty),
        report=reported(lambda s: {"modes": jnp.sum(s.now.discovered.live) - 1.0}),
    )
