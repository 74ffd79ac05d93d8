"""Denoising as a chain of Gaussian decisions: how it acts, and the likelihood of its steps."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from dpolicy import _checks
from dpolicy._settings import Count, Finite, Positive
from dpolicy._types import Action, Key, Metrics, Number, Observation, Scalar, Transition
from dpolicy.blocks._proximal import acted
from dpolicy.fields import AbstractField, DiscreteVP, Projected, Sinusoidal, cosine_betas
from dpolicy.learning import Acting, Parts
from dpolicy.losses import chain_log_likelihood
from dpolicy.losses.ratios import LogLikelihood
from dpolicy.recipe import tunable
from dpolicy.samplers import Ancestral, ddim, ddpm

# What an action goes through on its way to the environment.
Squash: TypeAlias = Callable[[Action], Action]


class Denoising(NamedTuple):
    """The chain of denoising steps: how it acts, its likelihood, and the field that it asks for.

    Attributes:
        steps: Denoising steps K.
        trained: How many of the last are trained, K'.
        explorer: The chain while exploring.
        evaluator: The chain in evaluation.
        likelihood: Of its trained steps, `(field, example, key) -> log-densities [trained]`.
        betas: Betas of its schedule.
        network: What the field is, for `field_policy`.
    """

    steps: int
    trained: int
    explorer: Ancestral
    evaluator: Ancestral
    likelihood: LogLikelihood
    betas: Any
    network: dict[str, Any]

    def explore(self, squash: Squash, *, early: str | None = None, cloned: bool = False) -> Acting:
        """How the part "policy" acts while it gathers experience; the extras hold the chain's points.

        Args:
            squash: What the last point goes through on its way to the environment.
            early: The part whose field takes the steps that are not trained; None for "policy".
            cloned: Whether the extras hold a chain of `early` as well, as "frozen" (see `cloning`).
        """

        def acting(parts: Parts) -> Callable[[Observation, Key], tuple[Action, dict[str, Any]]]:
            field, before = parts.policy, None if early is None else getattr(parts, early)

            def act(obs: Observation, key: Key) -> tuple[Action, dict[str, Any]]:
                key, frozen_key = jax.random.split(key)
                points = self.explorer.chain(field, obs, key, early=before, last=self.trained)
                stored = acted(obs, points[-1], {"chain": points})
                extras = {"chain": points, "log_prob": self.likelihood(field, stored, key)}
                if cloned:
                    extras["frozen"] = self.explorer.chain(before, obs, frozen_key, last=self.trained)  # pyright: ignore[reportArgumentType]  (given)
                return squash(points[-1]), extras

            return act

        return acting

    def evaluate(self, squash: Squash, *, early: str | None = None) -> Acting:
        """How it acts in evaluation; see `explore`."""

        def acting(parts: Parts) -> Callable[[Observation, Key], Action]:
            before = None if early is None else getattr(parts, early)
            follow = partial(self.evaluator.chain, parts.policy, early=before, last=self.trained)
            return lambda obs, key: squash(follow(obs, key)[-1])

        return acting

    def cloning(self, field: AbstractField, example: Transition, key: Key) -> tuple[Scalar, Metrics]:
        """A loss: minus the log-density of the chain that was stored as extras["frozen"]."""
        stored = acted(example.obs, example.action, {"chain": example.extras["frozen"]})
        value = -jnp.mean(self.likelihood(field, stored, key))
        return value, {"loss": value}


@tunable(
    "denoiser",
    "sampler_steps",
    "schedule_steps",
    "trained_steps",
    "exploration_std",
    "likelihood_std",
    "noise_bound",
    "reduction",
    "log_prob_low",
    "log_prob_high",
)
def denoising(
    *,
    denoiser: Literal["ddpm", "ddim", "euler"] = "ddpm",
    sampler_steps: Count = 10,
    schedule_steps: Count | None = None,
    trained_steps: int | None = None,
    exploration_std: Positive = 0.1,
    likelihood_std: Positive | None = None,
    noise_bound: Positive | None = 3.0,
    reduction: Literal["mean", "sum"] = "mean",
    log_prob_low: Finite | None = -5.0,
    log_prob_high: Finite | None = 2.0,
) -> Denoising:
    """A chain of denoising steps that are Gaussian decisions.

    Args:
        denoiser: ddpm (posterior variance), ddim (eta 1 while exploring, 0 in evaluation) or euler (steps of a
            rectified flow, with noise of `exploration_std` added to each while exploring).
        sampler_steps: Denoising steps K.
        schedule_steps: Steps of the cosine schedule, a multiple of K (DDIM: 100 for 5 steps); None for K.
        trained_steps: How many of the last steps are trained, K'; None for all. Without a pretrained field the earlier
            ones are those of the field being trained.
        exploration_std: Floor of the standard deviation of every step while exploring.
        likelihood_std: The same in the likelihood; None for equal, without which the ratio is not the sampler's.
        noise_bound: Noise is clipped to this many standard deviations; None for none.
        reduction: Over the action, mean or sum of the log-densities.
        log_prob_low: Lower clamp of each coordinate's log-density; None for none.
        log_prob_high: Upper clamp; None for none.

    Raises:
        ValueError: For a value out of its range.
    """
    trained = sampler_steps if trained_steps is None else trained_steps
    _checks.integer("trained_steps", trained, 1, sampler_steps)
    if denoiser == "euler" and schedule_steps is not None:
        raise ValueError(f"schedule_steps must be None for the denoiser euler, got {schedule_steps!r}.")
    _checks.ordered("log_prob_low", log_prob_low, "log_prob_high", log_prob_high)

    def sampler(std: Number, *, explore: bool = True) -> Ancestral:
        shared: dict[str, Any] = {"steps": sampler_steps, "min_std": std, "final_noise": explore}
        if explore:
            shared["noise_bound"] = noise_bound
        if denoiser == "euler":  # DDIM without noise of its own is Euler's step in a rectified flow
            return ddim(eta=0.0, clip=None, **shared)
        if denoiser == "ddpm":
            return ddpm(variance="posterior", **shared)
        return ddim(eta=1.0 if explore else 0.0, recompute=True, **shared)

    betas = cosine_betas(sampler_steps if schedule_steps is None else schedule_steps)
    network: dict[str, Any] = {"schedule": "rectified_flow", "prediction": "velocity", "embedding": "cos_sin"}
    if denoiser != "euler":
        times = lambda key: Projected(Sinusoidal(16, scale=len(betas), shift=-1.0), 16, hidden=(32,), key=key)
        network = {"schedule": DiscreteVP(betas), "prediction": "noise", "embedding": times}
    return Denoising(
        steps=sampler_steps,
        trained=trained,
        explorer=sampler(exploration_std),
        evaluator=sampler(1e-3 if denoiser == "ddpm" else 0.0, explore=False),
        likelihood=chain_log_likelihood(
            sampler(exploration_std if likelihood_std is None else likelihood_std),
            trained=trained,
            bounds=(log_prob_low, log_prob_high),
            reduction=reduction,
        ),
        betas=betas,
        network={**network, "sampler": "ddpm", "sampler_steps": sampler_steps},
    )
