"""Analytic truth: a mixture of Gaussians over actions, closed form at every t under every schedule."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._types import Key, Prediction
from dpolicy.fields import AbstractSchedule, FunctionField


class GaussianMixture(eqx.Module):
    """sum_m weights_m N(means_m, stds_m^2 I), means of shape [m, d].

    x_t is the mixture with means alpha means_m and variances alpha^2 stds_m^2 + sigma^2.
    """

    weights: Float[Array, " m"]
    means: Float[Array, "m d"]
    stds: Float[Array, " m"]

    def __init__(self, weights, means, stds):
        self.weights = jnp.asarray(weights) / jnp.sum(jnp.asarray(weights))
        self.means = jnp.asarray(means)
        self.stds = jnp.broadcast_to(jnp.asarray(stds, self.means.dtype), self.weights.shape)

    def _log_components(self, x, scale, variances):
        d = x.shape[0]
        square = jnp.sum((x[None] - scale * self.means) ** 2, axis=1)
        return jnp.log(self.weights) - square / (2 * variances) - d / 2 * jnp.log(2 * jnp.pi * variances)

    def log_prob(
        self, x: Float[Array, " d"], t=0.0, schedule: AbstractSchedule | None = None
    ) -> Float[Array, ""]:
        """log p_t(x); without a schedule the log-density of the clean action."""
        scale = jnp.asarray(1.0, x.dtype) if schedule is None else schedule.alpha(t)
        noise = jnp.asarray(0.0, x.dtype) if schedule is None else schedule.sigma(t)
        variances = scale**2 * self.stds**2 + noise**2
        return jax.nn.logsumexp(self._log_components(x, scale, variances))

    def posterior(self, x: Float[Array, " d"], t, schedule: AbstractSchedule):
        """(E[x_0 | x_t = x], E[eps | x_t = x])."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        variances = alpha**2 * self.stds**2 + sigma**2
        responsibility = jax.nn.softmax(self._log_components(x, alpha, variances))
        scaled = (x[None] - alpha * self.means) / variances[:, None]
        data = responsibility @ (self.means + alpha * (self.stds**2)[:, None] * scaled)
        return data, responsibility @ (sigma * scaled)

    def score(self, x: Float[Array, " d"], t, schedule: AbstractSchedule) -> Float[Array, " d"]:
        """grad_x log p_t(x)."""
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        variances = alpha**2 * self.stds**2 + sigma**2
        responsibility = jax.nn.softmax(self._log_components(x, alpha, variances))
        return responsibility @ ((alpha * self.means - x[None]) / variances[:, None])

    def field(self, schedule: AbstractSchedule, prediction: Prediction = "noise") -> FunctionField:
        """The exact field of that kind, regular at every t where its own definition is; it ignores `obs`."""

        def fn(x, t, obs):
            if prediction == "score":
                return self.score(x, t, schedule)
            data, noise = self.posterior(x, t, schedule)
            if prediction == "velocity":
                return schedule.dalpha(t) * data + schedule.dsigma(t) * noise
            return data if prediction == "data" else noise

        return FunctionField(fn, schedule=schedule, prediction=prediction, action_size=self.means.shape[1])

    def sample(self, key: Key, n: int) -> Float[Array, "n d"]:
        """n clean actions."""
        component_key, noise_key = jax.random.split(key)
        component = jax.random.categorical(component_key, jnp.log(self.weights), shape=(n,))
        noise = jax.random.normal(noise_key, (n, self.means.shape[1]), self.means.dtype)
        return self.means[component] + self.stds[component][:, None] * noise

    def mean(self) -> Float[Array, " d"]:
        """Mean of the clean action."""
        return self.weights @ self.means

    def covariance(self) -> Float[Array, "d d"]:
        """Covariance of the clean action."""
        centred = self.means - self.mean()[None]
        spread = jnp.einsum("m,mi,mj->ij", self.weights, centred, centred)
        return spread + jnp.sum(self.weights * self.stds**2) * jnp.eye(self.means.shape[1])
