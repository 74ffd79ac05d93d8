"""Critics that know the law of the return as a Gaussian, with the remedies of DSAC-T (arXiv 2310.05858)."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._settings import Fraction
from dpolicy._types import Action, Critic, Key, Loss, Model, Number, Observation, Scalar, Transition
from dpolicy.blocks._critics import LAW_SETTINGS, Critics, Policy, q_critics
from dpolicy.learning import Parts, Seen, Stage, trained
from dpolicy.losses import gaussian_bellman, td_target
from dpolicy.networks import GaussianQ, GaussianValue
from dpolicy.recipe import composed, tunable

# The value of where a transition leads and a sample of its return: `(example, key) -> (value, sample)`.
NextLaw: TypeAlias = Callable[[Transition, Key], tuple[Scalar, Scalar]]
_BOUND = 3.0


def next_law(
    policy: Policy,
    actor: Model,
    q: Critic,
    target: Callable[[Observation, Action], GaussianValue],
    temperature: Number | None = None,
) -> NextLaw:
    """The law at the next observation under a policy, of the critic with the lowest mean there.

    (mean, mean + std z), z ~ N(0, 1) clipped to 3, both minus temperature log pi(a' | s'). The value carries no noise
    of the sample.

    Args:
        policy: Draws the action.
        actor: Its parameters.
        q: What it selects by, if it does.
        target: An ensemble of critics, `(obs, action) -> (mean [n], std [n])`.
        temperature: Weight of the entropy; None for none.
    """

    def law(example: Transition, key: Key) -> tuple[Scalar, Scalar]:
        action_key, sample_key = jax.random.split(key)
        drawn = policy(actor, q, example.next_obs, action_key)
        action, log_prob = _checks.paired("the policy", drawn, "(action, log_prob)")
        mean, std = target(example.next_obs, action)
        lowest = jnp.argmin(mean)
        noise = jnp.clip(jax.random.normal(sample_key, (), mean.dtype), -_BOUND, _BOUND)
        value = mean[lowest] if temperature is None else mean[lowest] - temperature * log_prob
        return value, value + std[lowest] * noise

    return law


class GaussianCritics(NamedTuple):
    """An ensemble of Gaussian critics and how it learns.

    Attributes:
        critics: Networks, optimiser, discount and targets; called `critic(obs, action) -> (mean [n], std [n])`.
        rate: Share of the batch in the running mean of deviations.
        form: Of the loss.
    """

    critics: Critics
    rate: Number
    form: str

    def deviations(self) -> Stage:
        """The stage of b, each critic's running mean of std over batches, which the first batch starts.

        It stands before the critics, and is moved by what the update found of the part "critic".
        """

        def start(key: Key, spec: Any, parts: Parts) -> Float[Array, " n"]:
            return jnp.zeros(eqx.filter_eval_shape(self.critics.make, key, spec).size)

        def step(
            part: Float[Array, " n"], seen: Seen, key: Key
        ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
            std = jax.vmap(seen.before.critic)(seen.batch.obs, seen.batch.action).std
            fresh = jnp.mean(std, axis=0).astype(part.dtype)
            # A softplus is never zero: that is the start alone.
            new = jnp.where(part > 0, (1 - self.rate) * part + self.rate * fresh, fresh)
            return new, {}, {"": jnp.mean(new)}

        return Stage(start, step)

    def fitted(self, law: Callable[[Seen], NextLaw], *, deviations: str = "deviations") -> Stage:
        """The stage that fits them to r + gamma (value, sample) of the next observation.

        Args:
            law: `seen -> ((example, key) -> (value, sample))`, as `next_law` makes it.
            deviations: The name of the stage of b.
        """

        def loss(s: Seen) -> Loss:
            following = law(s)

            def target(example: Transition, key: Key) -> tuple[Scalar, Scalar]:
                gamma = self.critics.discount if example.discount is None else example.discount
                back = lambda value: td_target(example.reward, example.terminated, value, gamma)
                value, sample = following(example, key)
                return back(value), back(sample)

            return gaussian_bellman(target, getattr(s.now, deviations), form=self.form)

        critics = self.critics
        return critics.of_some(trained(critics.make, loss, critics.optimiser, horizon=critics.horizon))

    def averaged(self) -> Stage:
        """The stage of their targets, which follows the part called critic."""
        return self.critics.averaged()


@tunable("deviation_rate", "critic_form")
@composed(
    q_critics, without=("critic_reduction", *LAW_SETTINGS, "critic_unit_weights")
)  # they are added up, and have a law of their own
def gaussian_critics(
    make_critics: Callable[..., Critics],
    *,
    deviation_rate: Fraction = 0.005,
    critic_form: Literal["scaled", "huber", "huber_doubled"] = "scaled",
) -> GaussianCritics:
    """Twin Gaussian critics, or more, of the settings of `q_critics`.

    Args:
        deviation_rate: Share of a batch in the running mean of the critics' deviations, which bounds their samples.
        critic_form: The critics' loss: scaled (DSAC-T's paper), huber (its later code; half the variance), or
            huber_doubled (the same with the variance of scaled); see `dpolicy.losses.gaussian_value_loss`.
    """
    return GaussianCritics(make_critics(network=GaussianQ), deviation_rate, critic_form)
