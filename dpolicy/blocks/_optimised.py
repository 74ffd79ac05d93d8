"""Actions of any policy, improved by a critic: the best of many, moved up its gradient."""

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._rarely import rarely
from dpolicy._settings import Count, Positive, at_least
from dpolicy._types import Action, Critic, Key, Model, Number, Observation, Scalar, Transition
from dpolicy.blocks._bootstrap import Policy
from dpolicy.learning import Seen, Stage, labelled
from dpolicy.losses import gradient_ascent
from dpolicy.recipe import tunable
from dpolicy.samplers import select


class Optimised(NamedTuple):
    """How many actions are drawn, how many of them climb, how far.

    Attributes:
        candidates: Actions drawn.
        kept: So many of the highest values climb.
        steps: Gradient steps of each.
        rate: Their size: a <- clip(a + rate grad Q, -1, 1).
    """

    candidates: int
    kept: int
    steps: int
    rate: Number

    def actions(
        self,
        sample: Callable[[Model, Observation, Key], Action],
        actor: Model,
        q: Critic,
        obs: Observation,
        key: Key,
    ) -> tuple[Float[Array, "kept a"], Float[Array, " kept"]]:
        """The improved actions at an observation, and their values; none is below the sample that it was."""
        drawn = jax.vmap(lambda key: sample(actor, obs, key))(jax.random.split(key, self.candidates))
        value = partial(q, obs)
        values, highest = jax.lax.top_k(jax.vmap(value)(drawn), self.kept)
        if self.steps == 0:
            return drawn[highest], values
        climb = partial(gradient_ascent, value, steps=self.steps, rate=self.rate, plain=True, highest=True)
        found = jax.vmap(climb)(drawn[highest])
        return found, jax.vmap(value)(found)

    def policy(
        self, sample: Callable[[Model, Observation, Key], Action], *, temperature: Number | None = None
    ) -> Policy:
        """The improved action of highest value; with a temperature one of them by softmax(q / temperature)."""

        def act(actor: Model, q: Critic, obs: Observation, key: Key) -> tuple[Action, Scalar]:
            draw_key, select_key = jax.random.split(key)
            found, values = self.actions(sample, actor, q, obs, draw_key)
            return select(found, values, select_key, temperature=temperature), jnp.zeros(())

        return act


def labelled_after(label: Callable[[Seen, Transition, Key], dict[str, Any]], updates: int) -> Stage:
    """`labelled` once so many updates are over; before, its entries are 0 and cost nothing.

    Args:
        label: As of `labelled`.
        updates: Through which nothing is found.
    """
    stage = labelled(label)
    if updates == 0:
        return stage

    def step(part: Any, seen: Seen, key: Key) -> Any:
        def run(batch: Transition) -> dict[str, Any]:
            return stage.step(part, seen._replace(batch=batch), key)[1]

        zeros = lambda batch, shapes: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        return {}, rarely(seen.updates > updates, run, zeros, seen.batch), {}

    return stage._replace(step=step)


@tunable("candidates", "kept_candidates", "ascent_steps", "ascent_rate")
def optimised_actions(
    *,
    candidates: Count = 32,
    kept_candidates: Count = 10,
    ascent_steps: Annotated[int, at_least(0)] = 10,
    ascent_rate: Positive = 3e-4,
) -> Optimised:
    """The best of many samples, each then moved up the critic's gradient (PA-RL, arXiv 2412.06685).

    Args:
        candidates: Actions drawn of the policy.
        kept_candidates: So many of them, of the highest values, climb.
        ascent_steps: Gradient steps of each; of all points on the way it stays at the highest. 0 only ranks.
        ascent_rate: Their size, in units of action^2 / Q.

    Raises:
        ValueError: For more that are kept than are drawn.
    """
    if kept_candidates > candidates:
        raise ValueError(f"kept_candidates must be at most candidates, {candidates}, got {kept_candidates}.")
    return Optimised(candidates, kept_candidates, ascent_steps, ascent_rate)
