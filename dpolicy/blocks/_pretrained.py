"""A field that was fitted before, as the policy that training starts from."""

import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any, TypeAlias

import jax
import jax.numpy as jnp

from dpolicy._settings import Allowed
from dpolicy._types import Key
from dpolicy.fields import AbstractField


def _check_field(name: str, value: Any) -> None:
    if not isinstance(value, AbstractField):
        named = isinstance(value, (str, os.PathLike, Mapping))
        hint = f": pass dpolicy.train.pretrained_field({value!r}), the field of a run" if named else ""
        raise ValueError(f"{name} must be a field or None, got {value!r}{hint}.")


# A setting that takes a field; a configuration names the run that fitted it.
Pretrained: TypeAlias = Annotated[AbstractField, Allowed("Pretrained", _check_field)]


def check_follows(field: AbstractField, steps: int) -> None:
    """Refuse a pretrained field whose schedule a sampler of so many steps cannot follow."""
    try:
        field.schedule.grid(steps)
    except ValueError as error:
        raise ValueError(f"sampler_steps must suit the schedule of the pretrained field: {error}") from error


def starting_from(field: AbstractField) -> Callable[[Key, Any], AbstractField]:
    """`(key, spec) -> field`, which refuses an environment that the field does not suit."""

    def make(key: Key, spec: Any) -> AbstractField:
        if field.action_size != spec.action_size:
            raise ValueError(
                f"pretrained must give actions of size {spec.action_size}, those of {spec.name}, got one of "
                f"{field.action_size}."
            )
        inputs = (jnp.zeros(size) for size in ((field.action_size,), (), (spec.obs_size,)))
        try:
            jax.eval_shape(field, *inputs)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"pretrained must take observations of size {spec.obs_size}, those of {spec.name}."
            ) from error
        if getattr(spec, "standardised", False):
            raise ValueError(
                "normalise_observations must be off (--no-normalise-observations) for a policy that starts from a "
                "pretrained one, which was fitted to observations as they are."
            )
        return field

    return make
