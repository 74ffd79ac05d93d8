"""A policy that samples a field: the choices every diffusion and flow method shares, made once."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._checks import integer
from dpolicy._settings import Count, Sizes, checked, one_of
from dpolicy._types import Action, Critic, Key, Number, Observation, Prediction
from dpolicy.fields import (
    EMBEDDINGS,
    AbstractEmbedding,
    AbstractField,
    AbstractSchedule,
    CosineVP,
    DiscreteVP,
    Field,
    LinearVP,
    MeanField,
    RectifiedFlow,
    Trigonometric,
    VarianceExploding,
    cosine_betas,
    linear_betas,
)
from dpolicy.fields._schedule import constant
from dpolicy.learning import Acting, Parts
from dpolicy.losses.match import refuse_infinite_scores
from dpolicy.losses.times import TimeLaw, grid_times
from dpolicy.networks import Activation, Initialisation
from dpolicy.networks._mlp import check_residual
from dpolicy.recipe import composed, tunable
from dpolicy.samplers import (
    Prior,
    best_of,
    ddim,
    ddpm,
    dpm_solver,
    mean_flow,
    mmse_log_likelihood,
    noise_free,
    ode,
    path_divergence,
    sde,
)

SCHEDULES: dict[str, Callable[[int], AbstractSchedule]] = {
    "rectified_flow": lambda steps: RectifiedFlow(),
    "cosine": lambda steps: CosineVP(),
    "discrete_cosine": lambda steps: DiscreteVP(cosine_betas(steps)),
    "linear": lambda steps: LinearVP(),
    # DACER's: its betas for any number of steps, down to the action itself.
    "vp": lambda steps: LinearVP(0.1, 10.0, t_min=0.0),
    # The code of SDAC and DPMD (relax): 0.8 linspace(1e-4, 0.999).
    "discrete_linear": lambda steps: DiscreteVP(linear_betas(steps, start=0.8e-4, end=0.8 * 0.999)),
    "variance_exploding": lambda steps: VarianceExploding(),
    "trigonometric": lambda steps: Trigonometric(),
}
SAMPLERS: dict[str, Callable[[int, float | None], Any]] = {
    "euler": lambda steps, clip: ode(steps=steps, clip=clip),
    "heun": lambda steps, clip: ode(steps=steps, solver="heun", clip=clip),
    "sde": lambda steps, clip: sde(steps=steps, clip=clip),
    "ddpm": lambda steps, clip: ddpm(steps=steps, clip=clip),
    "ddpm_posterior": lambda steps, clip: ddpm(steps=steps, variance="posterior", clip=clip),
    "ddim": lambda steps, clip: ddim(steps=steps, clip=clip),
    "dpm_solver": lambda steps, clip: dpm_solver(steps=steps, clip=clip),
}


class FieldPolicy(NamedTuple):
    """A field, its schedule and its sampler, as the slots that combinators ask for.

    Attributes:
        schedule: The noise schedule.
        make: `(key, spec) -> field`.
        sample: `(field, obs, key) -> action`, in [-clip, clip] where the sampler clips its prediction of the action.
    """

    schedule: AbstractSchedule
    make: Callable[[Key, Any], AbstractField]
    sample: Callable[[AbstractField, Observation, Key], Action]

    @property
    def times(self) -> TimeLaw:
        """The law of the times at which its sampler evaluates the field: `grid_times`."""
        return grid_times(self.sample.steps)  # pyright: ignore[reportFunctionMemberAccess]

    def act(
        self, field: AbstractField, q: Critic, obs: Observation, key: Key
    ) -> tuple[Action, Float[Array, ""]]:
        """One sample, with a log-density of zero (it has no cheap one): a `Policy` of `dpolicy.blocks`."""
        return self.sample(field, obs, key), jnp.zeros(())

    def against(self, other: AbstractField) -> Callable[..., tuple[Action, Float[Array, ""]]]:
        """One sample, and the divergence of its path from that of `other` in the place of its log-density.

        So what asks for an entropy penalises the distance: see `path_divergence` for the samplers that it takes.
        """
        return lambda field, q, obs, key: path_divergence(self.sample, field, other, obs, key)

    @property
    def quiet(self) -> Callable[..., tuple[Action, Float[Array, ""]]]:
        """One sample without the noise that a sampler adds on its way (`noise_free`), so that only x_1 is random.

        Raises:
            ValueError: For a sampler that is nothing without its noise.
        """
        return self._replace(sample=noise_free(self.sample)).act

    @checked
    def best(
        self,
        candidates: Count,
        *,
        noise: Number | None = None,
        temperature: Number | None = None,
        picks: Count = 1,
    ) -> Callable[..., tuple[Action, Float[Array, ""]]]:
        """The best of several samples under the critic; one sample for `candidates=1`.

        With `noise` every sample gets N(0, noise^2) and is clipped to [-1, 1] before they are compared; with a
        `temperature` one of them is drawn with probability softmax(q / temperature). With several `picks` it is the
        mean of so many, the best or those drawn.

        Raises:
            ValueError: For more picks than candidates.
        """
        integer("picks", picks, 1, candidates)
        if candidates == 1 and noise is None:
            return self.act

        def draw(field: AbstractField, obs: Observation, key: Key) -> Action:
            if noise is None:
                return self.sample(field, obs, key)
            key, noise_key = jax.random.split(key)
            action = self.sample(field, obs, key)
            return jnp.clip(action + noise * jax.random.normal(noise_key, action.shape, action.dtype), -1, 1)

        def act(
            field: AbstractField, q: Critic, obs: Observation, key: Key
        ) -> tuple[Action, Float[Array, ""]]:
            select = best_of(candidates, draw, q, temperature=temperature, picks=picks)
            return select(field, obs, key), jnp.zeros(())

        return act

    @checked
    def with_density(self, steps: Count, draws: Count) -> Callable[..., tuple[Action, Float[Array, ""]]]:
        """One sample and its log-density by `mmse_log_likelihood`: what a soft backup asks for."""

        def act(
            field: AbstractField, q: Critic, obs: Observation, key: Key
        ) -> tuple[Action, Float[Array, ""]]:
            sample_key, density_key = jax.random.split(key)
            action = self.sample(field, obs, sample_key)
            return action, mmse_log_likelihood(field, action, obs, density_key, steps=steps, draws=draws)

        return act


@tunable(
    "schedule",
    "prediction",
    "sampler",
    "sampler_steps",
    "hidden",
    "obs_hidden",
    "activation",
    "embedding",
    "initialisation",
    "residual",
    "output_scale",
)
def field_policy(
    *,
    schedule: Annotated[str, one_of(SCHEDULES)] | AbstractSchedule = "cosine",
    prediction: Prediction = "noise",
    sampler: Annotated[str, one_of(SAMPLERS)] = "ddpm",
    sampler_steps: Count = 20,
    hidden: Sizes = (256, 256, 256),
    obs_hidden: Sizes = (),
    activation: Activation = "mish",
    embedding: Annotated[str, one_of(EMBEDDINGS)] | Callable[[Key], AbstractEmbedding] = "fourier_mlp",
    initialisation: Initialisation = "orthogonal",
    residual: bool = False,
    clip: float | None = 1.0,
    output_scale: float = 1.0,
    initial_scale: Number = 1.0,
    average: bool = False,
) -> FieldPolicy:
    """Choose a schedule, a field and a sampler by name.

    Args:
        schedule: Noise schedule: rectified_flow, cosine, linear, vp (DACER's: linear, up to 10), variance_exploding,
            trigonometric, or (with as many betas as sampler steps) discrete_cosine, DPPO's, or discrete_linear, that of
            SDAC's code; or one made.
        prediction: What the network predicts: noise, score, velocity or data.
        sampler: euler, heun, sde, ddpm, ddpm_posterior, ddim or dpm_solver (of order 2).
        sampler_steps: Sampler steps.
        hidden: Widths of the field's network.
        obs_hidden: Widths of a network of its own for the observation, before the field's; none unless given (128, 128
            in FlowRL, arXiv 2603.27450).
        activation: Activation of the field's network.
        embedding: Of time: fourier_mlp, fourier, random_fourier, fixed_fourier, sinusoidal, sinusoidal_mlp, cos_sin or
            raw.
        initialisation: Of the field's weights; see `dpolicy.networks`.
        residual: Whether pairs of hidden layers have a shortcut; their widths must be equal, and odd in number.
        clip: Bound of the action, and of its prediction at every sampler step; None for none.
        output_scale: Factor on the output of the field's network.
        initial_scale: Standard deviation of the sampler's start, in units of the schedule's.
        average: Whether the field is one of average velocities (`MeanField`), by which euler then steps.

    Raises:
        ValueError: For an unknown name, a step count below 1, or averages of something else than a velocity, under
            another sampler, or under a schedule of discrete levels.
    """
    check_residual(residual, hidden=hidden)
    constant("output_scale", output_scale)
    chosen = schedule if isinstance(schedule, AbstractSchedule) else SCHEDULES[schedule](sampler_steps)
    refuse_infinite_scores(chosen, prediction)
    if average:
        if prediction != "velocity":
            raise ValueError(f"prediction must be velocity for a field of averages, got {prediction!r}.")
        if sampler != "euler":
            raise ValueError(f"sampler must be euler for a field of averages, got {sampler!r}.")
        if isinstance(chosen, DiscreteVP):
            raise ValueError(f"schedule must reach the action for a field of averages, got {schedule!r}.")
    network: dict[str, Any] = {
        "schedule": chosen,
        "hidden": hidden,
        "obs_hidden": obs_hidden,
        "activation": activation,
        "embedding": embedding,
        "initialisation": initialisation,
        "residual": residual,
        "output_scale": output_scale,
    }

    def make(key: Key, spec: Any) -> AbstractField:
        if average:
            return MeanField(spec.obs_size, spec.action_size, **network, key=key)
        return Field(spec.obs_size, spec.action_size, prediction=prediction, **network, key=key)

    if average:
        return FieldPolicy(
            chosen, make, mean_flow(steps=sampler_steps, clip=clip, initial_scale=initial_scale)
        )
    prior = Prior("normal", initial_scale)
    made = eqx.tree_at(lambda made: made.prior, SAMPLERS[sampler](sampler_steps, clip), prior)
    return FieldPolicy(chosen, make, made)


def ends_in_box(policy: FieldPolicy) -> FieldPolicy:
    """The policy whose samples are clipped to [-1, 1] where they end, and not on the way (FQL, arXiv 2502.02538)."""
    sample = policy.sample
    return policy._replace(sample=lambda field, obs, key: jnp.clip(sample(field, obs, key), -1.0, 1.0))


def starting(sampler: Any, how: str, *, part: str = "policy") -> Acting:
    """An acting slot: a sample of the part's field from a "random" x_1, or always from "zero"."""

    def acting(parts: Parts) -> Callable[[Observation, Key], Action]:
        field = getattr(parts, part)

        def act(obs: Observation, key: Key) -> Action:
            # Its shape alone is asked for: the key is drawn from by the sampler.
            zero = lambda: jnp.zeros(eqx.filter_eval_shape(sampler.start, field, key).shape)
            return sampler(field, obs, key, start=zero() if how == "zero" else None)

        return act

    return acting


@composed(field_policy, without=("schedule", "prediction", "sampler"), sampler_steps=10)
def flow_policy(
    make_field: Callable[..., FieldPolicy],
    *,
    embedding: Annotated[str, one_of(EMBEDDINGS)] | Callable[[Key], AbstractEmbedding] = "cos_sin",
) -> FieldPolicy:
    """A flow as on-policy methods have it: Euler steps of a rectified flow, its actions not clipped.

    Args:
        embedding: Of time; see `field_policy`.
        sampler_steps: Euler steps of the sampler.
    """
    flow: dict[str, Any] = {"schedule": "rectified_flow", "prediction": "velocity", "sampler": "euler"}
    return make_field(**flow, embedding=embedding, clip=None)
