"""The optimiser of off-policy actors."""

from typing import Annotated, Any

import optax

from dpolicy._settings import Fraction, NonNegative, Positive, one_of
from dpolicy._types import Number
from dpolicy.optimisers import ANNEALS, adam, annealed, by_updates
from dpolicy.recipe import tunable


@tunable(
    "learning_rate",
    "decay_updates",
    "decay_start",
    "decay_share",
    "decay_shape",
    "max_grad_norm",
    "weight_decay",
)
def actor_optimiser(
    *,
    b1: Number = 0.9,
    b2: Number = 0.999,
    learning_rate: Positive = 3e-4,
    decay_updates: Positive | None = None,
    decay_start: NonNegative | None = None,
    decay_share: Fraction | None = None,
    decay_shape: Annotated[str, one_of(ANNEALS)] | None = None,
    max_grad_norm: Positive | None = None,
    weight_decay: NonNegative | None = None,
) -> optax.GradientTransformation:
    """Adam for the actor, whose rate may fall with the updates of the algorithm.

    Args:
        b1: Decay of Adam's first moment.
        b2: Of its second.
        learning_rate: Adam's rate for the actor.
        decay_updates: Updates over which the actor's rate falls; None keeps it (see `annealed`).
        decay_start: Updates before it begins to fall; 0 unless given.
        decay_share: What is left of the rate at the end, as a share; 0 unless given.
        decay_shape: linear or cosine; linear unless given.
        max_grad_norm: Bound on the norm of the actor's gradient, and of the critics', before Adam; None for none.
        weight_decay: Decoupled decay of the parameters of actor and critics (AdamW); None for none.

    Raises:
        ValueError: For a value out of its range.
    """
    bounds: dict[str, Any] = {"max_grad_norm": max_grad_norm, "weight_decay": weight_decay}
    if decay_updates is None:
        for setting, value in (("start", decay_start), ("share", decay_share), ("shape", decay_shape)):
            if value is not None:
                raise ValueError(f"decay_{setting} needs decay_updates, got {value!r} without.")
        return adam(learning_rate, b1=b1, b2=b2, **bounds)
    begin = 0.0 if decay_start is None else decay_start
    share = 0.0 if decay_share is None else decay_share
    shape = "linear" if decay_shape is None else decay_shape
    rate = by_updates(
        lambda updates: learning_rate * annealed(updates, 1.0, share, decay_updates, begin=begin, shape=shape)
    )
    return optax.chain(adam(None, b1=b1, b2=b2, **bounds), rate)
