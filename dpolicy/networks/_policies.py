"""Policies without a chain: deterministic (DDPG, TD3) and Gaussian, squashed, of one width, or residual."""

import abc
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._settings import Positive, Sizes
from dpolicy._types import Action, Key, Number, Observation, Scalar
from dpolicy.networks._activations import Activation
from dpolicy.networks._gaussian import gaussian_entropy, gaussian_log_prob, tanh_log_det
from dpolicy.networks._layers import Initialisation
from dpolicy.networks._mlp import MLP, check_parts
from dpolicy.recipe import tunable

WIDTHS = ("exp", "softplus", "tanh")
LEAST_STD = 1e-3  # of width "softplus"
LOG_STD_BOUNDS = (-5.0, 2.0)  # of `TanhMeanGaussian`


def _drawn(mean: Action, log_std: Action, key: Key) -> Action:
    return mean + jnp.exp(log_std) * jax.random.normal(_checks.one_key(key), mean.shape, mean.dtype)


class TanhDeterministic(eqx.Module):
    """a = tanh(f(s)), f an MLP: the actor of DDPG (arXiv 1509.02971) and TD3 (arXiv 1802.09477)."""

    mlp: MLP

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "relu",
        initialisation: str = "orthogonal",
        final_scale: float | int = 1.0,
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        self.mlp = MLP(
            (obs_size,),
            action_size,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=final_scale,
            key=key,
        )

    def __call__(self, obs: Observation) -> Action:
        """The action, within (-1, 1)."""
        check_parts(self.mlp, obs=obs)
        return jnp.tanh(self.mlp(obs))


class NoiseActor(eqx.Module):
    """a = f(s, z), an MLP over the observation and noise of the action's size: FQL's actor (arXiv 2502.02538)."""

    mlp: MLP

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "gelu",
        initialisation: str = "xavier_uniform",
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        sizes, layers = (obs_size, action_size), {"hidden": hidden, "activation": activation}
        self.mlp = MLP(sizes, action_size, **layers, initialisation=initialisation, key=key)

    def __call__(self, obs: Observation, noise: Action) -> Action:
        """The action, not bounded."""
        check_parts(self.mlp, obs=obs, noise=noise)
        return self.mlp(obs, noise)

    def sample(self, obs: Observation, key: Key) -> Action:
        """The action of z ~ N(0, I), clipped to [-1, 1]."""
        size = self.mlp.in_sizes[1]
        return jnp.clip(self(obs, jax.random.normal(_checks.one_key(key), (size,))), -1.0, 1.0)


class TanhGaussian(eqx.Module):
    """a = tanh(u), u ~ N(mean(s), std(s)^2): the squashed Gaussian of SAC (arXiv 1812.05905, appendix C).

    One MLP gives the mean and q, which makes the width: std = exp(clip(q, log_std_min, log_std_max)) for `width` "exp"
    (SAC); std = softplus(q) + 0.001 for "softplus" (Brax's PPO); for "tanh" (BRO, SimBa) log std between its bounds as
    (1 + tanh(q)) / 2 is between 0 and 1. With `initial_std` the bias of q is shifted by what makes that the width where
    the network gives 0.
    """

    mlp: MLP
    action_size: int = eqx.field(static=True)
    width: str = eqx.field(static=True)
    log_std_min: float = eqx.field(static=True)
    log_std_max: float = eqx.field(static=True)

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "relu",
        log_std_min: float | int = -20.0,
        log_std_max: float | int = 2.0,
        width: str = "exp",
        initial_std: Number | None = None,
        initialisation: str = "orthogonal",
        final_scale: float | int = 1.0,
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        _checks.in_range("log_std_min", log_std_min)
        _checks.in_range("log_std_max", log_std_max, float(log_std_min))
        _checks.one_of("width", width, WIDTHS)
        mlp = MLP(
            (obs_size,),
            2 * action_size,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=final_scale,
            key=key,
        )
        if initial_std is not None:
            least = {"softplus": LEAST_STD, "exp": 0.0, "tanh": math.exp(log_std_min)}[width]
            most = math.exp(log_std_max) if width == "tanh" else math.inf
            _checks.in_range(
                "initial_std", initial_std, least, most, open_low=True, open_high=width == "tanh"
            )
            std = jnp.asarray(initial_std, float)
            # The inverse of the width: what the bias must be for the network's 0 to mean `initial_std`.
            if width == "tanh":
                q = jnp.arctanh(2 * (jnp.log(std) - log_std_min) / (log_std_max - log_std_min) - 1)
            else:
                q = jnp.log(std) if width == "exp" else jnp.log(jnp.expm1(std - LEAST_STD))
            shift = jnp.zeros(2 * action_size).at[action_size:].set(q)
            mlp = eqx.tree_at(lambda m: m.layers[-1].bias, mlp, replace_fn=lambda bias: bias + shift)
        self.mlp = mlp
        self.width = width
        self.action_size = action_size
        self.log_std_min, self.log_std_max = float(log_std_min), float(log_std_max)

    def parameters(self, obs: Observation) -> tuple[Action, Action]:
        """(mean, log_std) of the Gaussian before the squash."""
        check_parts(self.mlp, obs=obs)
        mean, q = jnp.split(self.mlp(obs), 2)
        if self.width == "softplus":
            return mean, jnp.log(jax.nn.softplus(q) + LEAST_STD)
        if self.width == "tanh":
            return mean, self.log_std_min + (self.log_std_max - self.log_std_min) * 0.5 * (1 + jnp.tanh(q))
        return mean, jnp.clip(q, self.log_std_min, self.log_std_max)

    def unsquashed(self, obs: Observation, key: Key) -> Action:
        """u, of which the action is tanh(u); differentiable in the parameters (reparameterised)."""
        return _drawn(*self.parameters(obs), key)

    def sample(self, obs: Observation, key: Key) -> tuple[Action, Scalar]:
        """An action and its log-probability, both differentiable in the parameters (reparameterised)."""
        mean, log_std = self.parameters(obs)
        u = _drawn(mean, log_std, key)
        return jnp.tanh(u), gaussian_log_prob(u, mean, log_std) - tanh_log_det(u)

    def mode(self, obs: Observation) -> Action:
        """tanh of the mean, the action of evaluation."""
        return jnp.tanh(self.parameters(obs)[0])

    def log_prob_from_unsquashed(self, obs: Observation, u: Action) -> Scalar:
        """log pi(tanh(u) | s), from the stored u: inverting tanh is never needed."""
        _checks.shaped("u", u, (self.action_size,))
        mean, log_std = self.parameters(obs)
        return gaussian_log_prob(u, mean, log_std) - tanh_log_det(u)

    def entropy(self, obs: Observation, key: Key) -> Scalar:
        """One-sample estimate of the entropy in nats: that of the Gaussian, plus log(1 - tanh(u)^2) of a fresh u."""
        mean, log_std = self.parameters(obs)
        return gaussian_entropy(log_std) + tanh_log_det(_drawn(mean, log_std, key))


class _FreeWidth(eqx.Module):
    """A mean from an MLP and one free log std per action dimension, the same in every state."""

    mlp: MLP
    log_std: Float[Array, " a"]

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "elu",
        initial_std: Number = 1.0,
        initialisation: str = "orthogonal",
        final_scale: float | int = 0.01,
        key: Key,
    ):
        _checks.integer("obs_size", obs_size, 0)
        _checks.integer("action_size", action_size)
        _checks.positive("initial_std", initial_std)
        self.mlp = MLP(
            self._inputs(obs_size, action_size),
            action_size,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=final_scale,
            key=key,
        )
        self.log_std = jnp.full(action_size, jnp.log(jnp.asarray(initial_std, float)))

    @abc.abstractmethod
    def _inputs(self, obs_size: int, action_size: int) -> tuple[int, ...]:
        """The sizes of what the network is called with."""

    def _around(self, mean: Action, key: Key) -> tuple[Action, Scalar]:
        action = _drawn(mean, self.log_std, key)
        return action, gaussian_log_prob(action, mean, self.log_std)

    def entropy(self) -> Scalar:
        """Entropy in nats, the same in every state."""
        return gaussian_entropy(self.log_std)


class Gaussian(_FreeWidth):
    """a ~ N(mean(s), std^2) with one free log std per action dimension, the same in every state (PPO).

    The last layer of the mean starts small: `final_scale`.
    """

    def _inputs(self, obs_size: int, action_size: int) -> tuple[int, ...]:
        return (obs_size,)

    def mean(self, obs: Observation) -> Action:
        """The mean action."""
        check_parts(self.mlp, obs=obs)
        return self.mlp(obs)

    def parameters(self, obs: Observation) -> tuple[Action, Action]:
        """(mean, log_std)."""
        return self.mean(obs), self.log_std

    def mode(self, obs: Observation) -> Action:
        """The mean action, that of evaluation."""
        return self.mean(obs)

    def sample(self, obs: Observation, key: Key) -> tuple[Action, Scalar]:
        """An action, unbounded, and its log-probability."""
        return self._around(self.mean(obs), key)

    def log_prob(self, obs: Observation, action: Action) -> Scalar:
        """log pi(a | s)."""
        _checks.shaped("action", action, self.log_std.shape)
        return gaussian_log_prob(action, self.mean(obs), self.log_std)


class TanhMeanGaussian(_FreeWidth):
    """a ~ N(tanh(f(s)), std^2) with one free log std per action dimension, held to [-5, 2] (IQL, arXiv 2110.06169).

    The mean is squashed, the density is not: actions at a face of the box have a finite one.
    """

    def __init__(
        self,
        obs_size: int,
        action_size: int,
        *,
        hidden: tuple[int, ...] = (256, 256),
        activation: str = "relu",
        initialisation: str = "orthogonal",
        key: Key,
    ):
        super().__init__(
            obs_size,
            action_size,
            hidden=hidden,
            activation=activation,
            initialisation=initialisation,
            final_scale=math.sqrt(2),
            key=key,
        )

    def _inputs(self, obs_size: int, action_size: int) -> tuple[int, ...]:
        return (obs_size,)

    def parameters(self, obs: Observation) -> tuple[Action, Action]:
        """(mean, log_std)."""
        check_parts(self.mlp, obs=obs)
        return jnp.tanh(self.mlp(obs)), jnp.clip(self.log_std, *LOG_STD_BOUNDS)

    def mode(self, obs: Observation) -> Action:
        """The mean action, within (-1, 1)."""
        return self.parameters(obs)[0]

    def sample(self, obs: Observation, key: Key) -> tuple[Action, Scalar]:
        """An action, unbounded, and its log-probability."""
        mean, log_std = self.parameters(obs)
        action = _drawn(mean, log_std, key)
        return action, gaussian_log_prob(action, mean, log_std)

    def log_prob(self, obs: Observation, action: Action) -> Scalar:
        """log pi(a | s)."""
        _checks.shaped("action", action, self.log_std.shape)
        return gaussian_log_prob(action, *self.parameters(obs))

    def entropy(self) -> Scalar:
        """Entropy in nats, the same in every state."""
        return gaussian_entropy(jnp.clip(self.log_std, *LOG_STD_BOUNDS))


class ResidualGaussian(_FreeWidth):
    """a ~ N(a0 + mu(a0, s), std^2): a Gaussian step from a proposal a0 (DP-CPPO, arXiv 2603.04790).

    `log_std` is one free vector. The offset's last layer starts small, at 0 with `final_scale=0`. The entropy is
    that of the conditional: a lower bound on that of the marginal policy.
    """

    def _inputs(self, obs_size: int, action_size: int) -> tuple[int, ...]:
        return obs_size, action_size

    def offset(self, obs: Observation, base: Action) -> Action:
        """mu(a0, s)."""
        check_parts(self.mlp, obs=obs, base=base)
        return self.mlp(obs, base)

    def mean(self, obs: Observation, base: Action) -> Action:
        """a0 + mu(a0, s)."""
        return base + self.offset(obs, base)

    def sample(self, obs: Observation, base: Action, key: Key) -> tuple[Action, Scalar]:
        """An action and log p(a | a0, s)."""
        return self._around(self.mean(obs, base), key)

    def log_prob(self, obs: Observation, base: Action, action: Action) -> Scalar:
        """log p(a | a0, s)."""
        _checks.shaped("action", action, self.log_std.shape)
        return gaussian_log_prob(action, self.mean(obs, base), self.log_std)


@tunable("hidden", "activation", "initial_std", "initialisation")
def gaussian_policy(
    kind: Callable[..., Any],
    *,
    hidden: Sizes = (256, 256),
    activation: Activation = "elu",
    initial_std: Positive = 1.0,
    initialisation: Initialisation = "torch",
) -> Callable[[Key, Any], Any]:
    """`(key, spec) -> policy`: the slot that `proximal` fills with a Gaussian policy.

    Args:
        kind: `Gaussian`, `ResidualGaussian` or `TanhGaussian`.
        hidden: Widths of the policy's network.
        activation: Activation of policy and value network.
        initial_std: Starting standard deviation, in action units (before the squash, where there is one).
        initialisation: Of the weights: torch (RSL-RL's), orthogonal, lecun_normal, lecun_uniform, he_normal or
            xavier_uniform.

    Raises:
        ValueError: For a starting deviation that is not above zero.
    """
    _checks.function("kind", kind, "(obs_size, action_size, ...) -> policy")
    return lambda key, spec: kind(
        spec.obs_size,
        spec.action_size,
        hidden=hidden,
        activation=activation,
        initial_std=initial_std,
        initialisation=initialisation,
        key=key,
    )
