"""A policy that samples a field: the choices every diffusion and flow method shares, made once."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._schedule import constant
from dpolicy._types import Action, Critic, Key, Observation
from dpolicy.embeddings import EMBEDDINGS, AbstractEmbedding
from dpolicy.fields import AbstractField, Field
from dpolicy.losses.match import refuse_infinite_scores
from dpolicy.networks import check_network
from dpolicy.recipe import tunable
from dpolicy.samplers import best_of, ddim, ddpm, ode, sde
from dpolicy.samplers.ancestral import Ancestral
from dpolicy.schedules import (
    AbstractSchedule,
    CosineVP,
    LinearVP,
    RectifiedFlow,
    Trigonometric,
    VarianceExploding,
)

SCHEDULES: dict[str, Callable[[], AbstractSchedule]] = {
    "rectified_flow": RectifiedFlow,
    "cosine": CosineVP,
    "linear": LinearVP,
    "variance_exploding": VarianceExploding,
    "trigonometric": Trigonometric,
}
SAMPLERS: dict[str, Callable[[int, float | None], Any]] = {
    "euler": lambda steps, clip: ode(steps=steps, clip=clip),
    "heun": lambda steps, clip: ode(steps=steps, solver="heun", clip=clip),
    "sde": lambda steps, clip: sde(steps=steps, clip=clip),
    "ddpm": lambda steps, clip: ddpm(steps=steps, clip=clip),
    "ddpm_posterior": lambda steps, clip: ddpm(steps=steps, variance="posterior", clip=clip),
    "ddim": lambda steps, clip: ddim(steps=steps, clip=clip),
}


class FieldPolicy(NamedTuple):
    """A field, its schedule and its sampler, as the slots that combinators ask for.

    Attributes:
        schedule: The noise schedule.
        make: `(key, spec) -> field`.
        sample: `(field, obs, key) -> action`. Where the sampler clips its prediction of the action, what is left of the
            noise at the end of its grid may exceed that bound by a little.
    """

    schedule: AbstractSchedule
    make: Callable[[Key, Any], AbstractField]
    sample: Callable[[AbstractField, Observation, Key], Action]

    def act(
        self, field: AbstractField, q: Critic, obs: Observation, key: Key
    ) -> tuple[Action, Float[Array, ""]]:
        """One sample, with a log-density of zero (it has no cheap one): a `Policy` of `dpolicy.actor_critic`."""
        return self.sample(field, obs, key), jnp.zeros(())

    def quiet(
        self, field: AbstractField, q: Critic, obs: Observation, key: Key
    ) -> tuple[Action, Float[Array, ""]]:
        """One sample without the noise that an ancestral sampler adds on its way, so that only x_1 is random."""
        sample = self.sample
        if isinstance(sample, Ancestral):
            sample = dataclasses.replace(sample, noise_bound=0.0)
        return sample(field, obs, key), jnp.zeros(())

    def best(self, candidates: int) -> Callable[..., tuple[Action, Float[Array, ""]]]:
        """The best of several samples under the critic; one sample for `candidates=1`."""
        _checks.integer("candidates", candidates)
        if candidates == 1:
            return self.act

        def act(
            field: AbstractField, q: Critic, obs: Observation, key: Key
        ) -> tuple[Action, Float[Array, ""]]:
            return best_of(candidates, self.sample, q)(field, obs, key), jnp.zeros(())

        return act


@tunable(
    "schedule",
    "prediction",
    "sampler",
    "sampler_steps",
    "hidden",
    "activation",
    "embedding",
    "initialisation",
    "output_scale",
)
def field_policy(
    *,
    schedule: str | AbstractSchedule = "cosine",
    prediction: str = "noise",
    sampler: str = "ddpm",
    sampler_steps: int = 20,
    hidden: tuple[int, ...] = (256, 256, 256),
    activation: str = "mish",
    embedding: str | Callable[[Key], AbstractEmbedding] = "fourier_mlp",
    initialisation: str = "orthogonal",
    clip: float | None = 1.0,
    output_scale: float = 1.0,
) -> FieldPolicy:
    """Choose a schedule, a field and a sampler by name.

    Args:
        schedule: Noise schedule: rectified_flow, cosine, linear, variance_exploding or trigonometric, or one made.
        prediction: What the network predicts: noise, score, velocity or data.
        sampler: euler, heun, sde, ddpm, ddpm_posterior or ddim.
        sampler_steps: Sampler steps.
        hidden: Widths of the field's network.
        activation: Activation of the field's network.
        embedding: Of time: fourier_mlp, fourier, random_fourier, sinusoidal, cos_sin or raw.
        initialisation: Of the field's weights; see `dpolicy.networks`.
        clip: Bound of the predicted action at every sampler step, None for none.
        output_scale: Factor on the output of the field's network.

    Raises:
        ValueError: for an unknown name or a step count below 1.
    """
    if not isinstance(schedule, AbstractSchedule):
        _checks.one_of("schedule", schedule, SCHEDULES)
    _checks.one_of("sampler", sampler, SAMPLERS)
    _checks.one_of("prediction", prediction, ("noise", "score", "velocity", "data"))
    _checks.integer("sampler_steps", sampler_steps)
    check_network(activation, initialisation, hidden=hidden)
    if not callable(embedding):
        _checks.one_of("embedding", embedding, EMBEDDINGS)
    constant("output_scale", output_scale)
    chosen = schedule if isinstance(schedule, AbstractSchedule) else SCHEDULES[schedule]()
    refuse_infinite_scores(chosen, prediction)

    def make(key: Key, spec: Any) -> AbstractField:
        return Field(
            spec.obs_size,
            spec.action_size,
            schedule=chosen,
            prediction=prediction,  # pyright: ignore[reportArgumentType]  (checked above)
            hidden=hidden,
            activation=activation,
            embedding=embedding,
            initialisation=initialisation,
            output_scale=output_scale,
            key=key,
        )

    return FieldPolicy(chosen, make, SAMPLERS[sampler](sampler_steps, clip))
