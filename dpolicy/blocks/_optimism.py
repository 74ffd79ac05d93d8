"""An explorer that is optimistic within a bound: a second policy beside the actor, and the two duals that hold it."""

import math
from collections.abc import Callable
from typing import Annotated, Any, NamedTuple, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._settings import NonNegative, Positive, Sizes, within
from dpolicy._types import Action, Key, Loss, Metrics, Model, Number, Observation, Scalar, Transition
from dpolicy.blocks._critic_function import critic_function
from dpolicy.learning import Acting, Parts, Seen, Stage, trained
from dpolicy.losses import dual
from dpolicy.networks import Activation, BroNet, TanhGaussian
from dpolicy.optimisers import adam
from dpolicy.recipe import tunable

# The bounds of the logarithm of a multiplier.
_LOW, _HIGH = -10.0, 7.5
Bounded: TypeAlias = Annotated[Number, within(math.exp(_LOW), math.exp(_HIGH), open_low=True, open_high=True)]


class Multiplier(eqx.Module):
    """A positive number exp(l), l between -10 and 7.5 as (1 + tanh(raw)) / 2 is between 0 and 1; BRO, its code."""

    raw: Float[Array, ""]

    def __init__(self, value: Number):
        low, high = math.exp(_LOW), math.exp(_HIGH)
        _checks.in_range("value", value, low, high, open_low=True, open_high=True)
        log = jnp.log(jnp.asarray(value, float))
        self.raw = jnp.arctanh(2 * (log - _LOW) / (_HIGH - _LOW) - 1)

    def __call__(self) -> Scalar:
        """The number."""
        return jnp.exp(_LOW + (_HIGH - _LOW) * 0.5 * (1 + jnp.tanh(self.raw)))


class Explorer(NamedTuple):
    """A policy near the actor's that looks for what the critics disagree about, and the stages that train it.

    Attributes:
        explore: How it acts, from the parts "actor" and "explorer".
        explorer: The stage of its network: the shift of the actor's mean.
        optimism: The stage of o, the weight of the critics' disagreement.
        kl_weight: The stage of k, the weight of its distance from the actor.
    """

    explore: Acting
    explorer: Stage
    optimism: Stage
    kl_weight: Stage


def optimistic(
    actor: TanhGaussian, shift: Model, obs: Observation, key: Key, width: Number
) -> tuple[Action, Scalar]:
    """An action tanh(u), u ~ N(mean + shift(s, mean), (width std)^2) around an actor's N(mean, std^2), and its KL.

    The divergence is of the shifted law from the actor's, both at the actor's width: |shift|^2 / (2 std^2), summed.
    """
    mean, log_std = jax.lax.stop_gradient(actor.parameters(obs))
    moved = shift(obs, mean)
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    kl = jnp.sum((moved / jnp.exp(log_std)) ** 2) / 2
    return jnp.tanh(mean + moved + width * jnp.exp(log_std) * noise), kl


@tunable(
    "optimism",
    "kl_weight",
    "kl_target",
    "explorer_width",
    "multiplier_learning_rate",
    "explorer_hidden",
)
def optimistic_explorer(
    *,
    optimiser: Any,
    activation: Activation = "relu",
    optimism: Bounded = 1.0,
    kl_weight: Bounded = 0.25,
    kl_target: NonNegative = 0.05,
    explorer_width: Positive = 0.75,
    multiplier_learning_rate: Positive = 3e-5,
    explorer_hidden: Sizes = (256,),
) -> Explorer:
    r"""The optimistic explorer of BRO (arXiv 2405.16158), for an actor that is a `TanhGaussian`.

    With the critics' mean Q and deviation D at its action, quantile by quantile where they give these, and KL its
    distance from the actor for each dimension of the action,

    $$ L = -(Q + o\, D) + k\, d\, \mathrm{KL}, \qquad L_o = o\, (\mathrm{KL} - \mathrm{target}), \qquad
       L_k = -k\, (\mathrm{KL} - \mathrm{target}), $$

    so that where it is further from the actor than the target optimism falls and the weight k rises.

    Args:
        optimiser: Of its network.
        activation: Activation of its network.
        optimism: o at first.
        kl_weight: k at first.
        kl_target: The divergence from the actor, for each dimension of the action, that optimism and weight hold.
        explorer_width: Its standard deviation over the actor's.
        multiplier_learning_rate: Adam's rate for both, through the tanh that bounds their logarithms.
        explorer_hidden: Widths of its BroNet, one for each block.
    """

    def make(key: Key, spec: Any) -> Model:
        sizes = (spec.obs_size, spec.action_size)
        small = 0.01 / math.sqrt(2)  # "orthogonal" has gain sqrt(2)
        return BroNet(
            sizes, spec.action_size, hidden=explorer_hidden, activation=activation, final_scale=small, key=key
        )

    def loss(s: Seen) -> Loss:
        actor, o, k = s.now.actor, s.before.optimism(), s.before.kl_weight()
        upper = critic_function(s.now.critic, "lcb", pessimism=-o)

        def one(shift: Model, example: Transition, key: Key) -> tuple[Scalar, Metrics]:
            action, kl = optimistic(actor, shift, example.obs, key, explorer_width)
            value = upper(example.obs, action)
            result = k * kl - value
            return result, {"loss": result, "kl": kl / action.shape[-1], "value": value}

        return one

    def multiplier(start: Number, sign: float) -> Stage:
        def of(s: Seen) -> Loss:
            apart = sign * (s.metrics["explorer/kl"] - kl_target)
            return dual(lambda number: number(), lambda example: apart)

        rate = adam(multiplier_learning_rate, b1=0.5)
        return trained(lambda key, spec: Multiplier(start), of, rate)

    def explore(parts: Parts) -> Callable[[Observation, Key], Action]:
        return lambda obs, key: optimistic(parts.actor, parts.explorer, obs, key, explorer_width)[0]

    return Explorer(
        explore, trained(make, loss, optimiser), multiplier(optimism, 1.0), multiplier(kl_weight, -1.0)
    )
