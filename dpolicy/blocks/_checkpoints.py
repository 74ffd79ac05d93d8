"""Checkpoints of a policy: whole episodes decide which one is kept, and no policy changes while it is assessed."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from dpolicy._rarely import rarely
from dpolicy._settings import Count, Fraction, at_least
from dpolicy._types import Model, Number, Transition
from dpolicy.algorithm import Memory, Stored
from dpolicy.learning import Parts, Stage, reported
from dpolicy.recipe import tunable

_NONE = 1e30  # a return that no episode has, and a finite number


class Assessment(eqx.Module):
    """How far the assessment of a policy is.

    Attributes:
        number: Assessments before this one.
        passed: How many of them made a checkpoint.
        lowest: The lowest return so far.
        best: The lowest return of the last checkpoint.
        several: Whether an assessment now takes several episodes.
    """

    number: Int[Array, "*seeds"]
    passed: Int[Array, "*seeds"]
    lowest: Float[Array, "*seeds"]
    best: Float[Array, "*seeds"]
    several: Bool[Array, "*seeds"]


class Checkpoints(NamedTuple):
    """A behaviour that is assessed, and the one that is kept.

    Attributes:
        stages: The parts "behaviour", which acts and is assessed, "checkpoint" and "assessment", which updates leave as
            they are, and metrics of them; after the parts that a policy is made of.
        memory: What is stored of each episode beside its transitions, and how the assessment goes on at each step.
    """

    stages: dict[str, Stage]
    memory: Memory


def _kept(make: Callable[[Parts], Any]) -> Stage:
    """A part made of those before it, which no update moves."""
    return Stage(lambda key, spec, parts: make(parts), lambda part, seen, key: (part, {}, {}))


def _judged(
    now: Assessment, lowest: Float[Array, ""], complete: Bool[Array, ""], due: Bool[Array, ""], weight: Number
) -> tuple[Assessment, Bool[Array, ""], Bool[Array, ""]]:
    """The assessment after a step, whether it has ended, and whether the policy has passed."""
    failed = lowest < now.best
    passed = ~failed & complete
    ended = failed | passed
    best = jnp.where(passed, lowest, now.best)
    grown = ended & due & ~now.several
    after = Assessment(
        now.number + ended,
        now.passed + passed,
        jnp.where(ended, _NONE, lowest),
        jnp.where(grown, weight * best, best),
        now.several | grown,
    )
    return after, ended, passed


@tunable("first_episodes", "later_episodes", "later_after", "best_weight")
def policy_checkpoints(
    *,
    policy: Callable[[Parts], Model],
    first_episodes: Count = 1,
    later_episodes: Count = 20,
    later_after: Annotated[int, at_least(0)] = 750_000,
    best_weight: Fraction = 0.9,
) -> Checkpoints:
    """Keep the policy whose worst of some episodes is best (TD7, arXiv 2306.02451, section 4.3).

    The policy that acts stays as it is while its episodes, with their exploration, are played. One below the lowest
    return of the checkpoint ends the assessment at once; otherwise the policy becomes the checkpoint after so many.
    Either way the policy as it has been trained meanwhile acts, and is assessed, next.

    In TD7 no training takes place during an assessment, and all of it at its end. Here updates go on, of a policy that
    does not act: those between two assessments are as many, and their policy is met by the same one; but what they draw
    from does not yet hold the episodes that are running.

    Of n environments the first E mod n play one episode more than E / n, rounded down, whatever their lengths, so that
    short ones do not count more; an episode counts that began under the policy. Returns are of the rewards that are
    stored (`reward_scale`). A negative return of the checkpoint is raised, not lowered, by `best_weight` below 1, as in
    the published code.

    A method takes it by its stages and its memory:

        kept = policy_checkpoints(policy=lambda parts: parts.actor)
        algorithm(
            "mine", "off_policy", critic=..., actor=..., target=..., **kept.stages, memory=kept.memory,
            explore=acts(noisy_policy, actor="behaviour"), evaluate=acts(policy, actor="checkpoint"),
        )

    Args:
        policy: What acts, of the parts of the state: networks.
        first_episodes: Episodes E of an assessment at first.
        later_episodes: The same after `later_after` updates.
        later_after: Updates after which an assessment takes `later_episodes`.
        best_weight: The lowest return of the checkpoint is multiplied by this when that happens.
    """

    def share(several: Bool[Array, ""], n: int) -> Int[Array, " n"]:
        total = jnp.where(several, later_episodes, first_episodes)
        return total // n + (jnp.arange(n) < total % n)

    def start(transition: Transition) -> dict[str, Any]:
        # The return so far, the assessment in which the episode began, how many episodes of this environment have
        # counted in an assessment, and which assessment that is.
        return {"episode": jnp.asarray([0.0, -1.0, 0.0, -1.0])}

    def enter(state: Parts, stored: Stored, new: Transition) -> tuple[Parts, Transition]:
        n, capacity = stored.num_envs, stored.items.reward.shape[0]
        last = (stored.cursor - n + jnp.arange(n)) % capacity
        so_far, began, played, at = stored.items.extras["episode"][last].T
        fresh, now = stored.items.terminated[last] | stored.items.truncated[last], state.assessment
        number, quota = now.number.astype(so_far.dtype), share(now.several, n)
        began = jnp.where(fresh, number, began)
        returns = new.reward + jnp.where(fresh, 0, so_far)
        played = jnp.where(at == number, played, 0)
        counts = new.done & (began == number) & (played < quota)
        played = played + counts
        lowest = jnp.minimum(now.lowest, jnp.min(jnp.where(counts, returns, _NONE)))
        due = state.updates >= later_after
        after, ended, passed = _judged(now, lowest, jnp.all(played >= quota), due, best_weight)
        ledger = jnp.stack([returns, began, played, jnp.full_like(began, number)], axis=1)
        new = dataclasses.replace(new, extras={**new.extras, "episode": ledger})
        return _changed(state, policy, after, ended, passed), new

    def told(s: Any) -> dict[str, Any]:
        return {
            "checkpoint/assessments": s.now.assessment.number.astype(float),
            "checkpoint/passed": s.now.assessment.passed.astype(float),
        }

    zero = lambda: jnp.zeros((), jnp.int32)
    nothing = lambda parts: Assessment(
        zero(), zero(), jnp.zeros(()) + _NONE, jnp.zeros(()) - _NONE, jnp.asarray(False)
    )
    stages = {
        "behaviour": _kept(policy),
        "checkpoint": _kept(policy),
        "assessment": _kept(nothing),
        "assessed": reported(told),
    }
    return Checkpoints(stages, Memory(start, lambda state, batch, key: batch, enter=enter))


def _changed(
    state: Parts, policy: Callable[[Parts], Model], after: Assessment, ended: Any, passed: Any
) -> Parts:
    """The state with the policy of now as its behaviour, where the assessment has ended, and its checkpoint."""
    array = lambda tree: eqx.partition(tree, eqx.is_array)
    (acting, rest), (kept, _), (found, _) = map(array, (state.behaviour, state.checkpoint, policy(state)))

    def change(given: Any) -> tuple[Any, Any]:
        acting, kept, found, passed = given
        return found, jax.tree.map(lambda new, old: jnp.where(passed, new, old), acting, kept)

    def wait(given: Any, shapes: Any) -> tuple[Any, Any]:
        return given[0], given[1]

    acting, kept = rarely(ended, change, wait, (acting, kept, found, passed))
    both = eqx.combine(acting, rest), eqx.combine(kept, rest)
    return Parts(state, behaviour=both[0], checkpoint=both[1], assessment=after)
