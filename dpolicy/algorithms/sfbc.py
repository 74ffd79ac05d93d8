"""Selecting from behaviour candidates: a cloned policy, and a critic fitted to returns that are planned in the data."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.core
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Int

from dpolicy._order import check_order
from dpolicy._settings import Count, Fraction, Positive, one_of
from dpolicy._types import Key, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Critics,
    FieldPolicy,
    Survey,
    actor_optimiser,
    acts,
    critic_function,
    field_policy,
    q_critics,
    restarted,
    surveyed,
)
from dpolicy.learning import Seen, Stage, algorithm, every, trained
from dpolicy.losses import matching, perturb, planned_returns
from dpolicy.losses.planning import Planning
from dpolicy.recipe import composed

LEAST_DEVIATION = 0.1  # of returns, by which they are divided
ROWS_AT_ONCE = 256


def _standardised(returns: Any) -> Any:
    return (returns - jnp.mean(returns)) / jnp.maximum(jnp.std(returns), LEAST_DEVIATION)


def _as_reward(batch: Transition) -> Transition:
    """What is planned in the place of the reward, and nothing after it: what critics are fitted to is the return."""
    ends = jnp.ones_like(batch.terminated)
    return dataclasses.replace(batch, reward=batch.extras["target"], terminated=ends)


def _regressed(stage: Stage) -> Stage:
    def step(part: Any, seen: Seen, key: Key) -> Any:
        return stage.step(part, seen._replace(batch=_as_reward(seen.batch)), key)

    return stage._replace(step=step)


def _entries(returns: Any) -> dict[str, Any]:
    return {"return": returns, "target": _standardised(returns)}


def _looks(
    policy: FieldPolicy, discount: Any, planning: Planning, support: int, temperature: Any
) -> tuple[Survey, Survey]:
    """The returns of the trajectories as they were, and as the policy's actions at every state would have them."""

    def followed(seen: Seen, key: Key) -> dict[str, Any]:
        data = seen.batch
        if not isinstance(data.obs, jax.core.Tracer):
            check_order(data)
        none = jnp.full_like(data.reward, -jnp.inf)
        return _entries(planned_returns(data.reward, data.done, none, discount))

    def planned(seen: Seen, key: Key) -> dict[str, Any]:
        data, q = seen.batch, critic_function(seen.before.critic, "mean")

        def value(row: Any) -> Any:
            obs, key = row
            draw = lambda key: q(obs, policy.sample(seen.before.actor, obs, key))
            values = jax.vmap(draw)(jax.random.split(key, support))
            return jnp.sum(jax.nn.softmax(values / temperature) * values)

        keys = jax.random.split(key, data.reward.shape[0])
        values = jax.lax.map(value, (data.obs, keys), batch_size=ROWS_AT_ONCE)
        returns = data.extras["return"]
        values = jnp.mean(returns) + jnp.maximum(jnp.std(returns), LEAST_DEVIATION) * values
        return _entries(planned_returns(data.reward, data.done, values, discount, at=planning))

    blank = lambda row: {"return": 0.0 * row.reward, "target": 0.0 * row.reward}
    never = lambda updates: updates < 0
    return Survey(blank, followed, never), Survey(blank, planned, never)


@composed(
    field_policy,
    actor_optimiser,
    q_critics,
    without=("discount", "n_step", "target_rate", "critic_subset"),
    schedule="linear",
    sampler="dpm_solver",
    sampler_steps=15,
    embedding="random_fourier",
    activation="swish",
    learning_rate=1e-4,
    critics=1,
    critic_learning_rate=1e-3,
)
def sfbc(
    make_field: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    *,
    behaviour_updates: Count = 600_000,
    critic_updates: Count = 25_000,
    fits: Count = 2,
    discount: Fraction = 0.99,
    planning: Annotated[Planning, one_of(("successor", "state"))] = "successor",
    support: Count = 16,
    support_temperature: Positive = 0.05,
    candidates: Count = 32,
    evaluation_candidates: Count = 32,
    picks: Count = 1,
    selection_temperature: Positive = 0.01,
) -> Algorithm:
    r"""SfBC: candidates of a cloned diffusion, resampled by a critic of returns planned in the data (arXiv 2209.14548).

    $$ L = E |\epsilon_\theta(x_t, t, s) - \epsilon|^2, \qquad
       R_n = r_n + \gamma (1 - d_n) \max(R_{n+1}, V(s_{n+1})), \qquad
       V(s) = \sum_j \mathrm{softmax}_j(\hat Q(s, a_j) / T)\, \hat Q(s, a_j),\ a_j \sim \pi_\theta. $$

    First the policy is cloned, then one critic is fitted to the returns of the trajectories, standardised; then, with
    16 actions of the policy in every state of the data, the returns are planned anew (`planned_returns`) and a fresh
    critic is fitted to them, `fits` in all. No bootstrapped target is ever regressed on, and no action is asked about
    that the cloned policy would not take. Nothing is bootstrapped where a trajectory ends, by a time limit either.

    It acts by `picks` of 32 candidates, drawn without replacement with probabilities softmax(Q / .01), Q in
    standardised returns: in practice the best. With more than one it takes their mean (the code has four in
    locomotion), which is no action of a policy with several modes. The code's target is at least V(s_n) whatever was
    done there, `planning="state"`.

    The data must be in order of time. Networks are a plain MLP here, a U-shaped one in the code, whose sampler is
    of third order; it makes 600,000 and 2 x 24,400 updates of batches of 4,096. The
    last critic is fitted until the end of the run.

    Args:
        behaviour_updates: Updates in which the policy is cloned.
        critic_updates: Updates of each critic before the returns are planned anew.
        fits: Critics fitted one after another; with 1 there is no planning.
        discount: gamma.
        planning: Whose value competes with the trajectory: successor (the paper) or state (the code).
        support: Actions of the policy that make V.
        support_temperature: T, in standardised returns.
        candidates: Samples among which its action is chosen while exploring.
        evaluation_candidates: The same in evaluation.
        picks: So many of them are averaged.
        selection_temperature: Of the softmax over them, in standardised returns.
    """
    policy, critics = make_field(), make_critics()
    fit = matching(perturb(policy.schedule), reduction="sum")

    def again(updates: Int[Array, ""]) -> Bool[Array, ""]:
        """Whether returns are planned anew, and a fresh critic begins."""
        past = updates - behaviour_updates - 1
        return (past > 0) & (past % critic_updates == 0) & (past < fits * critic_updates)

    followed, planned = _looks(policy, discount, planning, support, support_temperature)
    once = lambda updates: updates == behaviour_updates + 1
    memory = surveyed(followed=followed._replace(due=once), planned=planned._replace(due=again))
    nothing_after = lambda s: lambda example, key: jnp.zeros(())
    regression = restarted(_regressed(critics.fitted(nothing_after)), again)
    best = lambda count: acts(
        policy.best(count, temperature=selection_temperature, picks=picks), select="online_mean"
    )
    method = algorithm(
        "sfbc",
        "offline",
        explore=best(candidates),
        evaluate=best(evaluation_candidates),
        memory=memory,
        actor=every(trained(policy.make, lambda s: fit, make_optimiser()), 1, until=behaviour_updates),
        critic=every(regression, 1, after=behaviour_updates),
    )
    return method._replace(phases=behaviour_updates + (fits - 1) * critic_updates)
