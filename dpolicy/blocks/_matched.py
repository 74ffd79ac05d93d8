"""A flow policy whose likelihood is its matching loss: what FPO and FPO++ share."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax

from dpolicy._types import Action, Key, Number, Observation, Transition
from dpolicy.blocks._proximal import acted
from dpolicy.fields import AbstractField
from dpolicy.losses import LogRatio
from dpolicy.losses.ratios import LogLikelihood

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
