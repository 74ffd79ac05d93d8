"""Rewards for what is new: random network distillation, and the growth of novelty along a step."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._settings import Count, NonNegative, Positive, Sizes, at_least
from dpolicy._types import Key, Metrics, Observation, Scalar, Transition
from dpolicy.learning import Seen, Stage, labelled
from dpolicy.modes._discovery import check_position
from dpolicy.networks import MLP
from dpolicy.optimisers import Learner, adam, descend, learner
from dpolicy.recipe import tunable


def positional_encoding(position: Float[Array, " d"], frequencies: int) -> Float[Array, " n"]:
    """The position x and sin(2^k x), cos(2^k x), k = 0 ... frequencies - 1 (Mildenhall et al. 2020, arXiv 2003.08934).

    A small network then tells close places apart.
    """
    _checks.integer("frequencies", frequencies, 0)
    angles = (2.0 ** jnp.arange(frequencies, dtype=position.dtype)[:, None] * position[None]).ravel()
    return jnp.concatenate([position, jnp.sin(angles), jnp.cos(angles)])


class Distillation(eqx.Module):
    """A predictor trained to agree with a fixed random network on what has been visited."""

    predictor: Learner[MLP]
    target: MLP


class Novelty(NamedTuple):
    """A reward for novelty as functions.

    Attributes:
        start: `(key, spec) -> state`.
        novelty: `(state, obs) -> scalar`, for one observation.
        reward: `(state, transition) -> scalar`, for one transition.
        fit: `(state, batch) -> (state, metrics)`: what the batch shows is less new from then on.
    """

    start: Callable[[Key, Any], Distillation]
    novelty: Callable[[Distillation, Observation], Scalar]
    reward: Callable[[Distillation, Transition], Scalar]
    fit: Callable[[Distillation, Transition], tuple[Distillation, Metrics]]

    def rewarded(self) -> Stage:
        """What each row of a batch learns from, the part "novelty" given: "intrinsic", and its sum with the reward.

        Group 0, of the rows that extras["group"] tells apart, learns from the first alone.
        """

        def rewards(s: Seen, example: Transition, key: Key) -> dict[str, Any]:
            bonus = self.reward(s.before.novelty, example)
            earned = jnp.where(example.extras["group"] > 0, example.reward, 0)
            return {"intrinsic": bonus, "reward": earned + bonus}

        return labelled(rewards)

    def stage(self) -> Stage:
        """Fitted to each batch, whose extras hold the reward that it gave as "intrinsic"."""

        def step(part: Distillation, s: Seen, key: Key) -> tuple[Distillation, dict[str, Any], Metrics]:
            part, metrics = self.fit(part, s.batch)
            return part, {}, {**metrics, "reward": jnp.mean(s.batch.extras["intrinsic"])}

        return Stage(lambda key, spec, parts: self.start(key, spec), step)


@tunable(
    "position",
    "novelty_scale",
    "novelty_decay",
    "novelty_frequencies",
    "novelty_hidden",
    "novelty_learning_rate",
    "max_grad_norm",
    "weight_decay",
)
def novelty_reward(
    *,
    position: tuple[int, ...] | None = None,
    novelty_scale: NonNegative = 0.01,
    novelty_decay: NonNegative = 0.5,
    novelty_frequencies: Annotated[int, at_least(0)] = 10,
    novelty_hidden: Sizes = (512, 256, 128),
    novelty_features: Count = 128,
    novelty_learning_rate: Positive = 1e-4,
    max_grad_norm: Positive | None = None,
    weight_decay: NonNegative = 0.0,
) -> Novelty:
    """r_int = scale max( n(s') - decay n(s), 0 ): a reward for crossing into the new (NovelD, Zhang et al. 2021).

    n(s) = || predictor(e(s)) - target(e(s)) ||, with a fixed random target network and a predictor that descends the
    mean squared error on s and s' of every batch (Burda et al. 2018, arXiv 1810.12894); e is the positional encoding
    of the position, next to the rest of the observation. Defaults: DDiffPG (arXiv 2406.00681), code.

    Args:
        position: Entries of the observation that place the agent, such as (0, 1); None for all.
        novelty_scale: Factor on the intrinsic reward.
        novelty_decay: Share of the novelty left behind that the intrinsic reward subtracts.
        novelty_frequencies: Frequencies of the positional encoding.
        novelty_hidden: Widths of the hidden layers of predictor and target.
        novelty_features: Outputs of both.
        novelty_learning_rate: Adam's rate for the predictor.
        max_grad_norm: Bound on the norm of the predictor's gradient; None for none.
        weight_decay: Decoupled weight decay of the predictor.

    Raises:
        ValueError: For a value out of its range; when it starts, for a position outside the observation.
    """
    check_position(position)
    optimiser = adam(novelty_learning_rate, max_grad_norm=max_grad_norm, weight_decay=weight_decay)

    def encode(obs: Observation) -> Float[Array, " n"]:
        where = list(range(obs.shape[0]) if position is None else position)
        # What is no position enters as it is: only places are to be told apart at a fine scale.
        rest = [i for i in range(obs.shape[0]) if i not in where]
        encoded = positional_encoding(obs[jnp.asarray(where, int)], novelty_frequencies)
        return jnp.concatenate([encoded, obs[jnp.asarray(rest, int)]])

    def start(key: Key, spec: Any) -> Distillation:
        for entry in position or ():
            _checks.integer("an entry of position", entry, 0, spec.obs_size - 1)
        size = jax.eval_shape(encode, jnp.zeros(spec.obs_size)).shape[0]
        make = lambda key: MLP((size,), novelty_features, hidden=novelty_hidden, activation="elu", key=key)
        predictor_key, target_key = jax.random.split(_checks.one_key(key))
        return Distillation(learner(make(predictor_key), optimiser), make(target_key))

    def error(predictor: MLP, target: MLP, obs: Observation) -> Float[Array, " m"]:
        seen = encode(obs)
        return predictor(seen) - jax.lax.stop_gradient(target(seen))

    def novelty(state: Distillation, obs: Observation) -> Scalar:
        return jnp.sqrt(jnp.sum(error(state.predictor.model, state.target, obs) ** 2))

    def reward(state: Distillation, transition: Transition) -> Scalar:
        after, before = novelty(state, transition.next_obs), novelty(state, transition.obs)
        # The growth of novelty along the step, not novelty itself: staying where it is new earns nothing.
        return novelty_scale * jnp.maximum(after - novelty_decay * before, 0)

    def fit(state: Distillation, batch: Transition) -> tuple[Distillation, Metrics]:
        seen = jnp.concatenate([batch.obs, batch.next_obs])

        def loss(predictor: MLP) -> tuple[Scalar, Metrics]:
            value = jnp.mean(jax.vmap(lambda obs: error(predictor, state.target, obs))(seen) ** 2)
            return value, {"loss": value}

        predictor, metrics = descend(state.predictor, loss, optimiser)
        return Distillation(predictor, state.target), metrics

    return Novelty(start, novelty, reward, fit)
