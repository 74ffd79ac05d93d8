"""DDiffPG: a diffusion policy that keeps every mode of behaviour it has discovered."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Key, Model, Number, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import FieldPolicy, field_policy
from dpolicy.learning import Seen, algorithm, frozen, labelled, labelled_batch, reported, trained
from dpolicy.losses import given, matching, perturb
from dpolicy.losses.times import grid_times
from dpolicy.modes import (
    Discovery,
    GroupedCritics,
    GroupedImprovement,
    ModalActing,
    Modes,
    Novelty,
    grouped_critics,
    grouped_improvement,
    modal_acting,
    mode_discovery,
    novelty_reward,
    shares,
)
from dpolicy.optimisers import adam
from dpolicy.recipe import composed


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


@composed(
    field_policy,
    mode_discovery,
    novelty_reward,
    grouped_critics,
    modal_acting,
    grouped_improvement,
    schedule="discrete_cosine",
    sampler="ddpm_posterior",
    hidden=(1024, 512, 256),
)
def ddiffpg(
    make_field: Callable[..., FieldPolicy],
    make_discovery: Callable[..., Discovery],
    make_novelty: Callable[..., Novelty],
    make_critics: Callable[..., GroupedCritics],
    make_acting: Callable[..., ModalActing],
    make_improvement: Callable[..., GroupedImprovement],
    *,
    sampler_steps: int = 5,
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

    where r_int is `dpolicy.modes.novelty_reward`, Q_g the smaller mean of two categorical critics, and z_g zero on
    every other row of a mode, in the critics' next actions too, so that z = 0 samples all modes alike. The critics'
    target is the element-wise minimum of the two projected laws at a noised action of the current policy (no averaged
    actor); it need not sum to one, which their loss allows for. It acts under z_0, or with a probability of one minus
    the exploring share under z = 0 (always, after `exploration_updates`), with noise that grows from the first
    environment to the last. "evaluate" acts under z = 0, and "mode_1", ... under z_1, ... (under z = 0 while there is
    no such mode).

    Modes come from `dpolicy.modes.mode_discovery`, which says how it differs from a clustering on the host. A new
    mode continues critics, optimiser state and improved actions of the one with which it shares most successes, or of
    group 0. Further differences from the published code: group 0 draws from all that the replay, a ring, holds (there
    from the episodes that modes are made of, and running ones); the ascent sees the critics after the previous update's
    step; where two groups draw one transition at once, the improved action of the first is kept; every heir of a mode
    inherits the optimiser's state (there only the first). Published runs take 8 updates of 4096
    transitions per step of 256 environments, and leave z_g = 0 for all modes by default.

    Args:
        sampler_steps: Sampler steps; training times are those at which the sampler evaluates the field.
        learning_rate: Adam's rate for the actor.
        max_grad_norm: Bound on the norm of each gradient: the actor's, one group's critics', the novelty predictor's;
            None for none.
        weight_decay: Decoupled weight decay of all networks.
        smoothing_std: Standard deviation of the noise on the next action of the critics' target.
        smoothing_clip: Bound of that noise.
    """
    _checks.positive("learning_rate", learning_rate)
    _checks.non_negative("smoothing_std", smoothing_std)
    _checks.non_negative("smoothing_clip", smoothing_clip)
    policy, discovery = make_field(sampler_steps=sampler_steps), make_discovery()
    bounds: dict[str, Any] = {"max_grad_norm": max_grad_norm, "weight_decay": weight_decay}
    novelty, critics = make_novelty(**bounds), make_critics(groups=discovery.groups, **bounds)
    acting, improvement = make_acting(policy=policy), make_improvement(critics=critics, discovery=discovery)
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
        memory=improvement.memory(),
        discovered=frozen(lambda key, spec: discovery.start(key)),
        groups=labelled_batch(_condition),
        rewards=labelled(rewards),
        next_action=labelled(smoothed),
        critic=critics.fitted(),
        actor=trained(make_actor, lambda s: given(improved, fit), adam(learning_rate, **bounds)),
        target=critics.averaged(),
        novelty=novelty.stage(),
        report=reported(lambda s: {"modes": jnp.sum(s.now.discovered.live) - 1.0}),
    )
