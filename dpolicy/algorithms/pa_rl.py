"""Policy-agnostic reinforcement learning: actions are improved by the critic, and any policy clones them."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax

from dpolicy._settings import NonNegative, Positive, at_least
from dpolicy._types import Key, Loss, Transition
from dpolicy.algorithm import Algorithm, needing
from dpolicy.blocks import (
    Critics,
    FieldPolicy,
    NextValue,
    Optimised,
    actor_optimiser,
    acts,
    field_policy,
    guide,
    labelled_after,
    next_value,
    optimised_actions,
    q_critics,
)
from dpolicy.learning import Seen, algorithm, every, trained
from dpolicy.losses import conservative, given, matching, perturb
from dpolicy.recipe import composed


@composed(
    field_policy,
    optimised_actions,
    actor_optimiser,
    q_critics,
    schedule="discrete_cosine",
    sampler_steps=5,
    critics=10,
    critic_subset=2,
    critic_network="layer_norm",
    critic="hl_gauss",
    critic_low=-100.0,
    critic_high=0.0,
    critic_atoms=128,
)
def pa_rl(
    make_field: Callable[..., FieldPolicy],
    make_optimised: Callable[..., Optimised],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    cloning_updates: Annotated[int, at_least(0)] = 100_000,
    distillation_after: Annotated[int, at_least(0)] | None = 200_000,
    distillation_temperature: Positive = 1.0,
    conservatism: NonNegative = 0.005,
    random_actions: Annotated[int, at_least(0)] = 10,
    action_copies: Annotated[int, at_least(1)] = 10,
) -> Algorithm:
    r"""PA-RL: the best of 32 samples climb Q, the policy clones them, the critic is Cal-QL's (arXiv 2412.06685).

    $$ \mathcal A = \mathrm{ascent}_{10}(\mathrm{top}_{10}^Q \{a_1, ..., a_{32} \sim \pi\}), \qquad
       a^* = \arg\max_{\mathcal A} Q, \qquad L_\pi = | \epsilon_\theta(x_t, t, s) - \epsilon |^2 \text{ of } a \sim
       \mathrm{softmax}_{\mathcal A}(Q), $$
    $$ L_Q = \mathrm{TD}(r + \gamma (1 - \mathrm{terminated}) \min_{k \in K} \bar Q_k(s', a^{*\prime}))
       + c\, (\log \mathrm{mean}_j\, e^{\max(Q(s, a_j), G(s))} - Q(s, a)), $$

    Q the mean of ten critics, K two of them drawn anew, a step a <- clip(a + 3e-4 grad Q); each of the ten stays at the
    highest point on its way, so that none is worse than its sample. The policy is never differentiated, whatever it is.
    The second term is `conservative`: a_j are a* at s and a*' at s', each counted ten times as in the authors' code,
    and ten random actions; G, extras["mc_return"], is what the data earned from there, below which no action of the
    policy's is pushed. It is discounted by `data_discount` of the program, which must be `discount`. It acts by a*.

    First the policy alone learns, from the data, for `cloning_updates`; then the critics, too; from
    `distillation_after` on it clones improved actions. The authors clone for three million updates, fit critics for a
    million with the policy as it is, and distil while fine-tuning in the environment, at a rate of 5e-5; here all of it
    is on data. Their policy has layer norms, shortcuts and dropout, their critics in antmaze four layers. One set of
    improved actions serves targets, the conservative term and cloning, where they draw three. The atoms are for rewards
    of -1 and 0.

    Args:
        cloning_updates: Updates through which the policy learns alone.
        distillation_after: Updates after which it clones improved actions, and no longer the data's, at least
            `cloning_updates`; None for never: only its best samples are moved, when it acts.
        distillation_temperature: Of the softmax among the improved actions, in units of Q.
        conservatism: c.
        random_actions: Random actions in the conservative term.
        action_copies: As how many actions each a* counts there.
    """
    never = distillation_after is None
    if not never and distillation_after < cloning_updates:
        raise ValueError(
            f"distillation_after must be at least cloning_updates, {cloning_updates:,}, got {distillation_after:,}."
        )
    policy, optimised, critics = make_field(), make_optimised(), make_critics()
    best = optimised.policy(policy.sample)
    fit = matching(perturb(policy.schedule, times=policy.times))

    def improve(s: Seen, example: Transition, key: Key) -> dict[str, Any]:
        q, keys = guide(s.before, "online_mean"), jax.random.split(key, 3)
        found, values = optimised.actions(policy.sample, s.before.actor, q, example.obs, keys[0])
        drawn = found[jax.random.categorical(keys[1], values / distillation_temperature)]
        following, _ = best(s.before.actor, q, example.next_obs, keys[2])
        return {"improved": drawn, "best": found[jnp.argmax(values)], "next_best": following}

    def value(s: Seen) -> NextValue:
        q, target = guide(s.before, "online_mean"), guide(s.before, "target_min")

        def of(example: Transition, key: Key) -> Any:
            chosen = lambda actor, q, obs, key: (example.extras["next_best"], jnp.zeros(()))
            return next_value(chosen, s.before.actor, q, target)(example, key)

        return of

    def hold(s: Seen) -> tuple[Any, Loss]:
        both = lambda e, key: jnp.stack([e.extras["best"], e.extras["next_best"]])
        floor = lambda e: e.extras["mc_return"]
        return conservatism, conservative(both, floor=floor, random=random_actions, copies=action_copies)

    def clone(s: Seen) -> Loss:
        def view(e: Transition) -> Transition:
            late = False if distillation_after is None else s.updates > distillation_after
            return dataclasses.replace(e, action=jnp.where(late, e.extras["improved"], e.action))

        return given(view, fit)

    made = algorithm(
        "pa_rl",
        "offline",
        explore=acts(best, select="online_mean"),
        evaluate=acts(best, select="online_mean"),
        candidates=labelled_after(improve, cloning_updates),
        critic=every(critics.fitted(value, beside=hold), 1, after=cloning_updates),
        target=critics.averaged(),
        actor=trained(policy.make, clone, make_optimiser()),
    )
    made = needing(made, "mc_return")._replace(discount=critics.discount)
    return made._replace(phases=cloning_updates if never else distillation_after)
