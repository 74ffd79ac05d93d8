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
from dpolicy._types import Action, Critic, Key, Loss, Metrics, Mode, Model, Number, Observation, Transition
from dpolicy.algorithm import Algorithm, Memory, Stored
from dpolicy.learning import FieldPolicy, Learner, adam, descend, ema, field_policy, learner
from dpolicy.losses import (
    batched,
    categorical_loss,
    categorical_target,
    gradient_ascent,
    matching,
    perturb,
    support,
)
from dpolicy.losses.categorical import check_support
from dpolicy.losses.times import grid_times
from dpolicy.modes import (
    Discovery,
    Distillation,
    Modes,
    Novelty,
    bounded_by_group,
    by_group,
    mode_discovery,
    novelty_reward,
    per_group,
    shares,
)
from dpolicy.networks import CategoricalQ, ensemble
from dpolicy.networks._mlp import check_network
from dpolicy.recipe import composed

_INSIDE = 1 - 1e-5  # improved actions stay this far inside the box


class _Sizes(NamedTuple):
    obs_size: int
    action_size: int


class ModalState(eqx.Module):
    """What DDiffPG carries between updates. The critics, their optimiser and their targets have an axis of groups."""

    actor: Learner
    critics: Learner
    target_critics: Model
    novelty: Distillation
    modes: Modes
    updates: Int[Array, "*seeds"]


@composed(
    field_policy,
    mode_discovery,
    novelty_reward,
    schedule="discrete_cosine",
    sampler="ddpm_posterior",
    hidden=(1024, 512, 256),
)
def ddiffpg(
    make_field: Callable[..., FieldPolicy],
    make_discovery: Callable[..., Discovery],
    make_novelty: Callable[..., Novelty],
    *,
    sampler_steps: int = 5,
    ascent_steps: int = 20,
    ascent_rate: Number = 0.03,
    ascent_norm: Number | None = 1.0,
    exploration_low: Number = 0.05,
    exploration_high: Number = 0.6,
    exploration_updates: Number = 87_500,
    learning_rate: Number = 3e-4,
    critic_learning_rate: Number = 5e-4,
    max_grad_norm: Number | None = 1.0,
    weight_decay: Number = 0.01,
    critic_hidden: tuple[int, ...] = (512, 256, 128),
    critic_activation: str = "elu",
    atoms: int = 51,
    value_low: Number = 0.0,
    value_high: Number = 5.0,
    discount: Number = 0.99,
    target_rate: Number = 0.05,
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
        critic_learning_rate: Adam's rate for the critics.
        max_grad_norm: Bound on the norm of each gradient: the actor's, one group's critics', the novelty predictor's;
            None for none.
        weight_decay: Decoupled weight decay of all networks.
        critic_hidden: Widths of each critic's hidden layers.
        critic_activation: Activation of the critics.
        atoms: Atoms of the critics' laws.
        value_low: The lowest atom. Values outside the atoms cannot be learned.
        value_high: The highest atom.
        discount: Discount gamma.
        target_rate: Share of the online critics that enters the targets at each update.
        smoothing_std: Standard deviation of the noise on the next action of the critics' target.
        smoothing_clip: Bound of that noise.
    """
    _checks.integer("ascent_steps", ascent_steps, 0)
    for name, value in (
        ("ascent_rate", ascent_rate),
        ("learning_rate", learning_rate),
        ("critic_learning_rate", critic_learning_rate),
    ):
        _checks.positive(name, value)
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
    _checks.fraction("discount", discount)
    _checks.fraction("target_rate", target_rate)
    check_network(critic_activation, "orthogonal", critic_hidden=critic_hidden)
    check_support(value_low, value_high, atoms, "value_{}")
    policy, discovery = make_field(sampler_steps=sampler_steps), make_discovery()
    novelty = make_novelty(max_grad_norm=max_grad_norm, weight_decay=weight_decay)
    actor_optimiser = adam(learning_rate, max_grad_norm=max_grad_norm, weight_decay=weight_decay)
    critic_optimiser = per_group(
        adam(critic_learning_rate, max_grad_norm=max_grad_norm, weight_decay=weight_decay)
    )
    fit = matching(perturb(policy.schedule, times=grid_times(sampler_steps)))
    groups = discovery.groups
    modes_of_acting = ("explore", "evaluate", *(f"mode_{g}" for g in range(1, groups)))

    def init(key: Key, spec: Any) -> ModalState:
        actor_key, critic_key, mode_key, novelty_key = jax.random.split(_checks.one_key(key), 4)
        modes = discovery.start(mode_key)
        sizes = _Sizes(spec.obs_size + modes.embedding.shape[1], spec.action_size)
        network = {"atoms": atoms, "hidden": critic_hidden, "activation": critic_activation}
        critic = lambda key: CategoricalQ(spec.obs_size, spec.action_size, **network, key=key)
        twins = eqx.filter_vmap(lambda key: ensemble(critic, 2, key=key))(
            jax.random.split(critic_key, groups)
        )
        return ModalState(
            actor=learner(policy.make(actor_key, sizes), actor_optimiser),
            critics=learner(twins, critic_optimiser),
            target_critics=twins,
            novelty=novelty.start(novelty_key, spec),
            modes=modes,
            updates=jnp.zeros((), jnp.int32),
        )

    def sample(
        actor: Model, obs: Observation, z: Float[Array, " z"], std: Number, bound: Any, key: Key
    ) -> Action:
        sample_key, noise_key = jax.random.split(key)
        action = policy.sample(actor, jnp.concatenate([obs, z]), sample_key)
        noise = std * jax.random.normal(noise_key, action.shape, action.dtype)
        return jnp.clip(action + (noise if bound is None else jnp.clip(noise, -bound, bound)), -1.0, 1.0)

    def explore_at(
        state: ModalState, obs: Observation, key: Key, place: Any
    ) -> tuple[Action, dict[str, Any]]:
        act_key, share_key = jax.random.split(_checks.one_key(key))
        share = jnp.where(state.updates < exploration_updates, 1 / jnp.sum(state.modes.live), 0)
        z = jnp.where(jax.random.uniform(share_key) < share, state.modes.embedding[0], 0)
        std = exploration_low + place * (exploration_high - exploration_low)
        return sample(state.actor.model, obs, z, std, None, act_key), {}

    def act(state: ModalState, obs: Observation, key: Key, mode: Mode) -> tuple[Action, dict[str, Any]]:
        _checks.one_of("mode", mode, modes_of_acting)
        _checks.one_key(key)
        if mode == "explore":
            key, place_key = jax.random.split(key)
            return explore_at(state, obs, key, jax.random.uniform(place_key))
        group = 0 if mode == "evaluate" else int(mode.removeprefix("mode_"))
        z = jnp.where(state.modes.live[group] & (group > 0), state.modes.embedding[group], 0)
        return sample(state.actor.model, obs, z, 0.0, None, key), {}

    def condition(modes: Modes, batch: Transition) -> tuple[Int[Array, " b"], Float[Array, "b z"]]:
        """The group of each row and what the policy is conditioned on there."""
        group = shares(modes.live, batch.reward.shape[0])
        hidden = (group > 0) & (jnp.arange(group.shape[0]) % 2 == 0)
        return group, jnp.where(hidden[:, None], 0, modes.embedding[group])

    def conditioned(example: Transition, z: Float[Array, "*b z"], action: Float[Array, "*b a"]) -> Transition:
        """The transition as the actor's loss sees it: observations with z beside them, and this action."""
        obs, next_obs = (jnp.concatenate([obs, z], axis=-1) for obs in (example.obs, example.next_obs))
        return dataclasses.replace(example, obs=obs, next_obs=next_obs, action=action)

    def lower_mean(critic: Model, obs: Observation, action: Action) -> Float[Array, ""]:
        atom = support(value_low, value_high, atoms)
        return jnp.min(jnp.matmul(jnp.exp(critic(obs, action)), atom, precision="highest"))

    def climb(
        q: Callable[..., Float[Array, " b"]], start: Float[Array, "b a"], group: Int[Array, " b"]
    ) -> Float[Array, "b a"]:
        """Improved actions of a batch: each group climbs its mean of q(actions)."""
        weight = 1 / jax.ops.segment_sum(jnp.ones_like(group, start.dtype), group, groups)[group]
        limit = None
        if ascent_norm is not None:
            limit = partial(bounded_by_group, group=group, groups=groups, bound=ascent_norm)
        return gradient_ascent(
            lambda actions: jnp.sum(weight * q(actions)),
            start,
            steps=ascent_steps,
            rate=ascent_rate,
            bound=_INSIDE,
            limit=limit,
        )

    def revise(state: ModalState, batch: Transition, key: Key) -> Transition:
        group, _ = condition(state.modes, batch)
        row = jnp.arange(group.shape[0])
        improved = batch.extras["improved"]
        q = partial(by_group, lower_mean, state.critics.model, state.modes.live, batch.obs)
        improved = improved.at[row, group].set(climb(q, improved[row, group], group))
        return dataclasses.replace(batch, extras={**batch.extras, "improved": improved})

    def draw(state: ModalState, stored: Stored, key: Key, batch_size: int) -> Int[Array, " batch"]:
        return discovery.draw(state.modes, stored, key, batch_size)

    def organise(state: ModalState, stored: Stored, key: Key) -> tuple[ModalState, dict[str, Any]]:
        extras = stored.items.extras
        modes, heirs = discovery.look(state.modes, stored, extras["seen"], key)
        inherit = lambda leaf: leaf[heirs.source] if eqx.is_array(leaf) else leaf
        critics, targets = jax.tree.map(inherit, (state.critics, state.target_critics))
        state = dataclasses.replace(state, critics=critics, target_critics=targets, modes=modes)
        return state, {"improved": extras["improved"][:, heirs.source], "seen": jnp.ones_like(extras["seen"])}

    def update(state: ModalState, batch: Transition, key: Key) -> tuple[ModalState, Metrics]:
        next_key, actor_key = jax.random.split(_checks.one_key(key))
        live, (group, z) = state.modes.live, condition(state.modes, batch)
        row = jnp.arange(group.shape[0])
        intrinsic = jax.vmap(partial(novelty.reward, state.novelty))(batch)
        reward = jnp.where(group > 0, batch.reward, 0) + intrinsic
        keys = jax.random.split(next_key, group.shape[0])
        smoothed = lambda obs, z, key: sample(state.actor.model, obs, z, smoothing_std, smoothing_clip, key)
        next_action = jax.vmap(smoothed)(batch.next_obs, z, keys)

        def target(critic: Model, *item: Any) -> Float[Array, " atoms"]:
            obs, action, reward, terminated = item
            project = lambda p: categorical_target(
                p, reward, terminated, discount, low=value_low, high=value_high
            )
            return jnp.min(jax.vmap(project)(jnp.exp(critic(obs, action))), axis=0)

        targets = by_group(
            target, state.target_critics, live, batch.next_obs, next_action, reward, batch.terminated
        )
        weight = 1 / jax.ops.segment_sum(jnp.ones_like(reward), group, groups)[group]

        def critic_loss(critics: Model) -> tuple[Float[Array, ""], Metrics]:
            each = lambda critic, obs, action, target: jnp.sum(
                jax.vmap(categorical_loss, in_axes=(0, None))(critic(obs, action), target)
            )
            losses = by_group(each, critics, live, batch.obs, batch.action, targets)
            # A sum of means: no group's gradient depends on how many there are.
            return jnp.sum(weight * losses), {"loss": jnp.mean(losses)}

        critics, critic_metrics = descend(state.critics, critic_loss, critic_optimiser)
        examples = conditioned(batch, z, batch.extras["improved"][row, group])
        loss = batched(fit)
        actor, metrics = descend(state.actor, lambda model: loss(model, examples, actor_key), actor_optimiser)
        seen, novelty_metrics = novelty.fit(state.novelty, batch)
        new = ModalState(
            actor=actor,
            critics=critics,
            target_critics=ema(state.target_critics, critics.model, 1 - target_rate),
            novelty=seen,
            modes=state.modes,
            updates=state.updates + 1,
        )
        return new, {
            **{f"actor/{key}": value for key, value in metrics.items()},
            **{f"critic/{key}": value for key, value in critic_metrics.items()},
            **{f"novelty/{key}": value for key, value in novelty_metrics.items()},
            "novelty/reward": jnp.mean(intrinsic),
            "modes": jnp.sum(live) - 1.0,
        }

    def objective(state: ModalState, q: Critic) -> tuple[Model, Loss]:
        def loss(actor: Model, example: Transition, key: Key) -> tuple[Float[Array, ""], Metrics]:
            lone = jnp.zeros(1, jnp.int32)
            improved = climb(lambda actions: q(example.obs, actions[0])[None], example.action[None], lone)[0]
            z = jnp.zeros_like(state.modes.embedding[0])
            return fit(actor, conditioned(example, z, improved), key)

        return state.actor.model, loss

    def remember(transition: Transition) -> dict[str, Any]:
        copies = jnp.tile(transition.action[None], (groups, 1))
        return {"improved": copies, "seen": jnp.zeros((), bool)}

    return Algorithm(
        "ddiffpg",
        "off_policy",
        init,
        act,
        update,
        modes=modes_of_acting,
        objective=objective,
        memory=Memory(remember, revise, draw, organise, discovery.interval),
        explore_at=explore_at,
    )
