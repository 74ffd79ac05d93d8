"""Actions of a policy at every state of a data set, drawn once and kept: what is in the support of the data."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from dpolicy._settings import Count, Positive, checked
from dpolicy._types import Action, Critic, Key, Number, Observation, Scalar, Transition
from dpolicy.blocks._bootstrap import NextValue
from dpolicy.blocks._critic_function import critic_function
from dpolicy.blocks._critics import Critics, q_critics
from dpolicy.blocks._surveyed import Survey
from dpolicy.learning import Acting, Seen, Stage, every
from dpolicy.learning._stages import Entries
from dpolicy.losses import softmax_value
from dpolicy.recipe import composed, tunable

ROWS_AT_ONCE = 256


@checked
def support_actions(
    policy: Acting,
    count: Count,
    due: Callable[[Int[Array, ""]], Bool[Array, ""]],
    *,
    name: str = "support",
    at: Literal["obs", "next_obs"] = "obs",
) -> Survey:
    """Beside every row of the data `count` actions of a policy, as the entry `name`, [count, a]; zeros at first.

    Drawn for the whole set when it is due, a few hundred rows at a time: for a policy that was cloned once, for one
    that goes on learning at intervals. A set of n rows takes n times count times a numbers in the run and its
    checkpoints. `stored_actions(name)` makes candidates of them, `in_support_value` the value of the next state.
    Source: QGPO (arXiv 2304.12824) and QIPO (2503.04975).

    Args:
        policy: `parts -> ((obs, key) -> action)`, of the parts as the update finds them.
        count: Actions of each row.
        due: `updates -> whether`; updates are counted from 1.
        name: Of the entry.
        at: Whose actions: those at the observation of a row, or at the next one.
    """

    def start(row: Transition) -> Entries:
        return {name: jnp.zeros((count, *row.action.shape), row.action.dtype)}

    def look(seen: Seen, key: Key) -> Entries:
        act, obs = policy(seen.before), getattr(seen.batch, at)

        def one(given: tuple[Observation, Key]) -> Any:
            obs, key = given
            return jax.vmap(act, in_axes=(None, 0))(obs, jax.random.split(key, count))

        keys = jax.random.split(key, obs.shape[0])
        return {name: jax.lax.map(one, (obs, keys), batch_size=ROWS_AT_ONCE)}

    return Survey(start, look, due)


def in_support_value(target: Critic, temperature: Number, *, name: str = "next_support") -> NextValue:
    """The `softmax_value` of the next observation over its support actions, which the example brings by that name.

    Args:
        target: Values an action.
        temperature: In units of its values.
        name: Of the actions among the extras.
    """

    def value(example: Transition, key: Key) -> Scalar:
        def of(action: Action) -> Scalar:
            return target(example.next_obs, action)

        return softmax_value(jax.vmap(of)(example.extras[name]), temperature)

    return value


class InSupport(NamedTuple):
    """Critics that are asked about actions of a cloned policy only, and the phases of the method around them.

    Attributes:
        critics: The ensemble of Q.
        behaviour_updates: Updates in which the policy is cloned.
        critic_updates: Those after them in which the critics are fitted.
        support: Actions beside every row.
        temperature: Of the softmax over them.
    """

    critics: Critics
    behaviour_updates: int
    critic_updates: int
    support: int
    temperature: Number

    @property
    def fitted_by(self) -> int:
        """The last update in which the critics are fitted."""
        return self.behaviour_updates + self.critic_updates

    def kept(
        self, policy: Acting, due: Callable[[Int[Array, ""]], Bool[Array, ""]] | None = None, **where: Any
    ) -> Survey:
        """`support_actions` of the policy, unless told otherwise once, when it has been cloned."""
        once = lambda updates: updates == self.behaviour_updates + 1
        return support_actions(policy, self.support, once if due is None else due, **where)

    def cloned(self, stage: Stage) -> Stage:
        """The stage in the first phase alone."""
        return every(stage, 1, until=self.behaviour_updates)

    def _second(self, stage: Stage) -> Stage:
        return every(stage, 1, after=self.behaviour_updates, until=self.fitted_by)

    def fitted(self) -> Stage:
        """The stage of the critics, towards the `in_support_value` of the lower target critic; then they stay."""

        def value(s: Seen) -> NextValue:
            return in_support_value(critic_function(s.before.target), self.temperature)

        return self._second(self.critics.fitted(value))

    def averaged(self) -> Stage:
        """The stage of the target critics, which stay with them."""
        return self._second(self.critics.averaged())


@tunable("behaviour_updates", "critic_updates", "support", "support_temperature")
@composed(q_critics, without=("n_step",))
def in_support_critics(
    make_critics: Callable[..., Critics],
    *,
    behaviour_updates: Count = 600_000,
    critic_updates: Count = 500_000,
    support: Count = 16,
    support_temperature: Positive = 1 / 3,
) -> InSupport:
    r"""In-support Q-learning: the next value is a softmax over actions of the cloned policy (arXiv 2304.12824).

    $$ y = r + \gamma (1 - \mathrm{terminated}) \sum_j p_j \bar Q(s', a_j), \qquad
       p = \mathrm{softmax}_j(\bar Q(s', a_j) / T), \quad a_j \sim \nu_\theta(. | s'). $$

    The actions are drawn once, for every row of the data. Targets are of single steps: a row brings actions at its own
    next observation, not at that of a window.

    Args:
        behaviour_updates: Updates at the start in which the behaviour policy is cloned, and nothing else is done.
        critic_updates: Updates after them in which the critics are fitted, which then stay as they are.
        support: Actions of the behaviour policy that are drawn for every row of the data.
        support_temperature: T, in units of Q: towards 0 the largest of them counts.
    """
    return InSupport(make_critics(), behaviour_updates, critic_updates, support, support_temperature)
