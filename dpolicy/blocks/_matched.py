"""A flow policy whose likelihood is its matching loss: what FPO and FPO++ share."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp

from dpolicy._settings import Count, Positive
from dpolicy._types import Action, Key, Loss, Number, Observation, Transition
from dpolicy.blocks._field_policy import FieldPolicy
from dpolicy.blocks._proximal import acted
from dpolicy.fields import AbstractField
from dpolicy.learning import Acting, Parts, Stage
from dpolicy.losses import LogRatio, flow_matching_log_ratio
from dpolicy.losses.ratios import LogLikelihood
from dpolicy.recipe import tunable

Sample = Callable[[AbstractField, Observation, Key], Action]


def on_unsquashed(likelihood: LogLikelihood) -> LogLikelihood:
    """The likelihood of what the flow returned, example.extras["unsquashed"], in place of the executed action."""

    def log_likelihood(field: Any, example: Transition, key: Key):
        return likelihood(field, eqx.tree_at(lambda e: e.action, example, example.extras["unsquashed"]), key)

    return log_likelihood


def matched_ratio(ratio: LogRatio) -> LogRatio:
    """A flow-matching log-ratio of what the flow returned, whatever squash the environment's action went through."""
    return LogRatio(on_unsquashed(ratio.log_likelihood), ratio.combine)


def explore_matched(
    sample: Sample, ratio: LogRatio, *, squash: Callable[[Action], Action], noise: Number | None = None
) -> Callable[[AbstractField, Observation, Key], tuple[Action, dict[str, Any]]]:
    """`(field, obs, key) -> (action, extras)`: x = sample + noise n goes to the environment as squash(x).

    The extras hold x, the key that its pairs (t, eps) are drawn from in every pass, and their losses now.
    """

    def explore(field: AbstractField, obs: Observation, key: Key) -> tuple[Action, dict[str, Any]]:
        sample_key, pair_key = jax.random.split(key)
        x = sample(field, obs, sample_key)
        if noise is not None:
            noise_key, pair_key = jax.random.split(pair_key)
            x = x + noise * jax.random.normal(noise_key, x.shape, x.dtype)
        extras = {"unsquashed": x, "key": pair_key}
        stored = ratio.log_likelihood(field, acted(obs, x, extras), pair_key)
        return squash(x), {**extras, "log_prob": stored}

    return explore


def counted() -> Stage:
    """A part that counts its own steps: fewer than the algorithm's updates where a combinator lets it wait."""
    start = lambda key, spec, parts: jnp.zeros((), jnp.int32)
    return Stage(start, lambda count, seen, key: (count + 1, {}, {}))


class MatchedFlow(NamedTuple):
    """A flow policy with its matching loss as the likelihood.

    Attributes:
        flow: The policy.
        ratio: Its log-ratio.
        draws: Pairs (t, eps) per action.
        squash: What an action goes through on its way to the environment.
        noise: Standard deviation of Gaussian noise on x_0 while exploring; None for none.
    """

    flow: FieldPolicy
    ratio: LogRatio
    draws: int
    squash: Callable[[Action], Action]
    noise: Number | None

    def explore(self, **also: Callable[[AbstractField, Transition, Key], Any]) -> Acting:
        """How it acts while it gathers experience (`explore_matched`), with further extras `(field, example, key)`."""
        explore = explore_matched(self.flow.sample, self.ratio, squash=self.squash, noise=self.noise)

        def acting(parts: Parts) -> Callable[[Observation, Key], tuple[Action, dict[str, Any]]]:
            def act(obs: Observation, key: Key) -> tuple[Action, dict[str, Any]]:
                action, extras = explore(parts.policy, obs, key)
                example = acted(obs, action, extras)
                return action, extras | {name: of(parts.policy, example, key) for name, of in also.items()}

            return act

        return acting

    def evaluate(self, parts: Parts) -> Callable[[Observation, Key], Action]:
        """One sample without the noise."""
        return lambda obs, key: self.squash(self.flow.sample(parts.policy, obs, key))


@tunable("draws", "average", "loss_clip", "old_loss_clip", "log_ratio_clip", "action_noise")
def matched_flow(
    *,
    flow: FieldPolicy,
    loss: Loss,
    squash: Callable[[Action], Action] = lambda x: x,
    draws: Count = 8,
    average: Literal["mean_then_exp", "per_sample", "exp_then_mean"] = "mean_then_exp",
    loss_clip: Positive | None = None,
    old_loss_clip: Positive | None = None,
    log_ratio_clip: Positive | None = None,
    action_noise: Positive | None = None,
) -> MatchedFlow:
    """A flow policy whose ratio is that of its matching loss (FPO, arXiv 2507.21053); see `flow_matching_log_ratio`.

    Args:
        flow: The policy.
        loss: Its matching loss.
        squash: What an action goes through on its way to the environment; the loss is of what the flow returned.
        draws: Pairs (t, eps) per action.
        average: One ratio for all draws, of their mean loss (mean_then_exp) or the mean of their ratios
            (exp_then_mean), or a clipped ratio for each (per_sample).
        loss_clip: Bound of each draw's loss, beyond which it has no gradient; None for none.
        old_loss_clip: Bound of each stored loss alone (FPO++ when fine-tuning: 4); None for none.
        log_ratio_clip: Upper bound of the log-ratio, its gradient kept; None for none.
        action_noise: Standard deviation of Gaussian noise on x_0 while exploring, stored as well as executed; None for
            none.

    Raises:
        ValueError: For a value out of its range.
    """
    bounds: dict[str, Any] = {"loss_clip": loss_clip, "old_loss_clip": old_loss_clip, "clip": log_ratio_clip}
    ratio = matched_ratio(flow_matching_log_ratio(loss, draws=draws, average=average, **bounds))
    return MatchedFlow(flow, ratio, draws, squash, action_noise)
