"""Regression of a field onto actions, with an exponential moving average: behaviour cloning and DP-CPPO's flow fit."""

from typing import Any, Generic, TypeVar

import equinox as eqx
import optax

from dpolicy._types import Key, Loss, Metrics, Number
from dpolicy.ema import ema
from dpolicy.learner import Learner, descend, learner
from dpolicy.losses import batched

M = TypeVar("M")


class Cloned(eqx.Module, Generic[M]):
    """A field being fitted and the average of its parameters, which is what acts."""

    learner: Learner[M]
    average: M


def cloned(model: M, optimiser: optax.GradientTransformation) -> Cloned[M]:
    """Start fitting `model`; the average starts at the same parameters."""
    return Cloned(learner(model, optimiser), model)


def clone_step(
    state: Cloned[M], loss: Loss, batch: Any, key: Key, optimiser: optax.GradientTransformation, decay: Number
) -> tuple[Cloned[M], Metrics]:
    """One gradient step on the batch mean of `loss`, then average <- decay average + (1 - decay) model."""
    mean = batched(loss)
    trained, metrics = descend(state.learner, lambda model: mean(model, batch, key), optimiser)
    return Cloned(trained, ema(state.average, trained.model, decay)), metrics
