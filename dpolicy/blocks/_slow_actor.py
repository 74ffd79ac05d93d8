"""The slow copy of an actor."""

from typing import Annotated

from dpolicy._settings import Count, Fraction, at_least
from dpolicy.learning import Stage, average, every
from dpolicy.recipe import tunable


@tunable("actor_rate", "average_interval", "average_after")
def slow_actor(
    *,
    actor_rate: Fraction = 0.005,
    average_interval: Count = 5,
    average_after: Annotated[int, at_least(0)] = 1_000,
) -> Stage:
    """The stage of an actor's slow copy, which starts as the actor is and waits through the first updates.

    Source: Diffusion-QL (arXiv 2208.06193), code; EDP and DAC have the same.

    Args:
        actor_rate: Share of the actor that enters its slow copy.
        average_interval: The slow copy moves at every so many updates.
        average_after: Updates at the start through which it waits.
    """
    return every(average("actor", actor_rate), average_interval, after=average_after)
