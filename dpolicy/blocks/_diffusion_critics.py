"""Critics that draw returns: a diffusion over one number, given the observation and the action (DSAC-D)."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._settings import Count, Fraction, NonNegative, Positive, Sizes, one_of
from dpolicy._types import Action, Key, Loss, Metrics, Model, Number, Observation, Scalar, Transition
from dpolicy.algorithm import Horizon
from dpolicy.blocks._bootstrap import Policy
from dpolicy.blocks._field_policy import SAMPLERS, SCHEDULES
from dpolicy.fields import EMBEDDINGS, AbstractEmbedding, AbstractField, AbstractSchedule, Field
from dpolicy.learning import Parts, Seen, Stage, Statistics, average, labelled, statistics, trained
from dpolicy.losses import grid_times, matching, perturb, td_target
from dpolicy.networks import Activation, Ensemble, ensemble
from dpolicy.optimisers import adam
from dpolicy.recipe import tunable

_RETURN, _MEAN, _STD = "sampled_return", "return_mean", "return_std"


class DiffusionCritics(NamedTuple):
    """An ensemble of diffusions over the return of (s, a), how it is sampled and how it learns.

    Each is a field over one number z, whose observation is s and a; the return is mean + std z, by the running
    statistics of the returns that it has been fitted to (the part "returns").

    Attributes:
        make: `(key, spec) -> ensemble of fields`.
        optimiser: Of the ensemble.
        schedule: Of the noise.
        sampler: `(field, obs, key) -> z [1]`.
        samples: Returns drawn of each critic wherever a mean is taken.
        discount: gamma.
        target_rate: Share of the critics that enters the targets at each update.
        statistics_rate: Share of a batch that enters the running statistics.
        bound: A sampled return is kept within so many running deviations of a critic's mean; None for no bound.
        horizon: What transitions must span.
    """

    make: Callable[[Key, Any], Model]
    optimiser: optax.GradientTransformation
    schedule: AbstractSchedule
    sampler: Any
    samples: int
    discount: Number
    target_rate: Number
    statistics_rate: Number
    bound: Number | None
    horizon: Horizon | None

    def draw(
        self, critic: Any, scale: Statistics, obs: Observation, action: Action, key: Key
    ) -> Float[Array, "critics samples"]:
        """Returns of (s, a), differentiable in the action through every step of their chains."""
        if not isinstance(critic, Ensemble):  # an audit's critic has values
            values = critic(obs, action)
            return jnp.broadcast_to(values[:, None], (values.size, self.samples))
        seen = jnp.concatenate([obs, action])

        def one(field: AbstractField, key: Key) -> Float[Array, " samples"]:
            keys = jax.random.split(key, self.samples)
            return jax.vmap(lambda key: self.sampler(field, seen, key)[0])(keys)

        z = eqx.filter_vmap(one)(critic.members, jax.random.split(key, critic.size))
        return scale.mean + scale.std * z

    def ascent(self, act: Policy, critic: Any, scale: Statistics) -> Loss:
        """-min_j mean_m Z_jm(s, a), a drawn by a policy of the model: differentiated through both chains.

        Args:
            act: Draws the action.
            critic: The ensemble.
            scale: The running statistics.
        """

        def loss(actor: Model, example: Transition, key: Key) -> tuple[Scalar, Metrics]:
            action_key, draw_key = jax.random.split(key)
            action, _ = _checks.paired(
                "the policy", act(actor, _no_values, example.obs, action_key), "(action, log_prob)"
            )
            value = jnp.min(jnp.mean(self.draw(critic, scale, example.obs, action, draw_key), axis=1))
            return -value, {"loss": -value, "value": value}

        return loss

    def fitted(self, behaviour: Callable[[Parts], Policy], *, actor: str = "actor") -> dict[str, Stage]:
        """The stages that fit the part "critic", in order: labels, "returns", "deviations" (with a bound), "critic".

        Args:
            behaviour: `parts -> policy`, which draws the next action.
            actor: The part whose parameters that has.
        """

        def label(s: Seen, e: Transition, key: Key) -> dict[str, Array]:
            action_key, next_key, here_key = jax.random.split(key, 3)
            policy, parts = behaviour(s.before), s.before
            action, _ = policy(getattr(parts, actor), _no_values, e.next_obs, action_key)
            drawn = self.draw(parts.target, parts.returns, e.next_obs, action, next_key)
            lowest = jnp.argmin(jnp.mean(drawn, axis=1))
            gamma = self.discount if e.discount is None else e.discount
            found = {_RETURN: td_target(e.reward, e.terminated, drawn[lowest, 0], gamma)}
            if self.bound is not None:
                here = self.draw(parts.critic, parts.returns, e.obs, e.action, here_key)
                found |= {_MEAN: jnp.mean(here, axis=1), _STD: jnp.std(here, axis=1)}
            return found

        found: dict[str, Stage] = {"backup": labelled(label)}
        found["returns"] = statistics(lambda s: s.batch.extras[_RETURN], self.statistics_rate)
        if self.bound is not None:
            found["deviations"] = self._deviations()
        fitted = trained(self.make, self._loss, self.optimiser, horizon=self.horizon)
        return {**found, "critic": fitted}

    def averaged(self) -> Stage:
        """The stage of their targets, which follows the part called critic."""
        return average("critic", self.target_rate)

    def _loss(self, s: Seen) -> Loss:
        match = matching(
            perturb(self.schedule, times=grid_times(self.sampler.steps)), compare="noise", reduction="sum"
        )

        def loss(critic: Ensemble[Any], e: Transition, key: Key) -> tuple[Scalar, Metrics]:
            y = jnp.broadcast_to(e.extras[_RETURN], (critic.size,))
            if self.bound is not None:
                middle, reach = e.extras[_MEAN], self.bound * s.now.deviations
                y = jnp.clip(y, middle - reach, middle + reach)

            seen = jnp.concatenate([e.obs, e.action])

            def one(field: AbstractField, z: Scalar, key: Key) -> Scalar:
                point = Transition(seen, z[None], e.reward, seen, e.terminated, e.truncated)
                return match(field, point, key)[0]

            z = jax.vmap(s.now.returns)(y)
            errors = eqx.filter_vmap(one)(critic.members, z, jax.random.split(key, critic.size))
            total = jnp.sum(errors)
            return total, {"loss": total, "target": e.extras[_RETURN]}

        return loss

    def _deviations(self) -> Stage:
        """b of each critic: the running mean of the deviations of its returns, which the first batch starts."""

        def start(key: Key, spec: Any, parts: Parts) -> Float[Array, " n"]:
            return jnp.zeros(eqx.filter_eval_shape(self.make, key, spec).size)

        def step(
            part: Float[Array, " n"], seen: Seen, key: Key
        ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
            fresh = jnp.mean(seen.batch.extras[_STD], axis=0).astype(part.dtype)
            rate = self.statistics_rate
            new = jnp.where(part > 0, (1 - rate) * part + rate * fresh, fresh)
            return new, {}, {"": jnp.mean(new)}

        return Stage(start, step)


def _no_values(obs: Observation, action: Action) -> Scalar:
    raise ValueError("a policy under critics that draw must not select by values of Q.")


@tunable(
    "critics",
    "value_schedule",
    "value_sampler",
    "value_steps",
    "value_samples",
    "critic_hidden",
    "critic_activation",
    "value_embedding",
    "value_bound",
    "statistics_rate",
    "critic_learning_rate",
    "discount",
    "n_step",
    "target_rate",
    "max_grad_norm",
    "weight_decay",
)
def diffusion_critics(
    *,
    critics: Count = 2,
    value_schedule: Annotated[str, one_of(SCHEDULES)] = "vp",
    value_sampler: Annotated[str, one_of(SAMPLERS)] = "ddpm",
    value_steps: Count = 20,
    value_samples: Count = 16,
    critic_hidden: Sizes = (256, 256, 256),
    critic_activation: Activation = "mish",
    value_embedding: Annotated[str, one_of(EMBEDDINGS)] | Callable[[Key], AbstractEmbedding] = "fourier_mlp",
    value_bound: Positive | None = 3.0,
    statistics_rate: Fraction = 0.005,
    critic_learning_rate: Positive = 1e-4,
    discount: Fraction = 0.99,
    n_step: Count = 1,
    target_rate: Fraction = 0.005,
    max_grad_norm: Positive | None = None,
    weight_decay: NonNegative | None = None,
) -> DiffusionCritics:
    r"""Twin diffusions over the return, or more (DSAC-D, arXiv 2507.01381; most of it a reconstruction).

    $$ L = \sum_j \| \epsilon - \epsilon_j(\alpha_i z + \sigma_i \epsilon;\, s, a, i) \|^2, \qquad
       z = (y - \mathrm{mean}) / \mathrm{std}, \qquad y = r + \gamma (1 - \mathrm{terminated}) Z'_{j^*}(s', a'), $$

    i uniform on the sampler's steps, Z' ONE return drawn of the target whose mean over samples is lowest at s', y
    within `value_bound` running deviations of the critic's mean. The networks start at the law N(0, 1) of z: they give
    a velocity, whose 0 stands for it, and the error is that of the noise. So the noise of the vp schedule is not blown
    up by what has not learned yet, and then by its own targets.

    Args:
        critics: Critics in the ensemble.
        value_schedule: Noise schedule of returns; see `field_policy`.
        value_sampler: Sampler of returns: ddpm (with the posterior's variance they would be too narrow),
            ddpm_posterior, ddim, dpm_solver, sde, euler or heun.
        value_steps: Its steps.
        value_samples: Returns drawn of each critic wherever a mean is taken.
        critic_hidden: Widths of each critic's network.
        critic_activation: Activation of the critics.
        value_embedding: Of the critics' time; see `field_policy`.
        value_bound: Running deviations of a critic's returns, from its mean, within which its targets are kept; None
            for no bound, and no returns drawn for it.
        statistics_rate: Share of a batch in the running statistics of returns, which normalise them.
        critic_learning_rate: Adam's rate for the critics.
        discount: Discount gamma.
        n_step: Steps of reward in the critics' targets before they bootstrap; fewer where an episode ends.
        target_rate: Share of the online critics that enters the targets at each update.
        max_grad_norm: Bound on the norm of the actor's gradient, and of the critics', before Adam; None for none.
        weight_decay: Decoupled decay of the parameters of actor and critics (AdamW); None for none.

    Raises:
        ValueError: For a value out of its range.
    """
    schedule = SCHEDULES[value_schedule](value_steps)
    network: dict[str, Any] = {
        "schedule": schedule,
        "prediction": "velocity",
        "hidden": critic_hidden,
        "activation": critic_activation,
        "embedding": value_embedding,
        "final_scale": 0.0,
    }

    def make(key: Key, spec: Any) -> Model:
        one = lambda key: Field(spec.obs_size + spec.action_size, 1, **network, key=key)
        return ensemble(one, critics, key=key)

    return DiffusionCritics(
        make,
        adam(critic_learning_rate, max_grad_norm=max_grad_norm, weight_decay=weight_decay),
        schedule,
        SAMPLERS[value_sampler](value_steps, None),
        value_samples,
        discount,
        target_rate,
        statistics_rate,
        value_bound,
        None if n_step == 1 else Horizon(n_step, discount),
    )
