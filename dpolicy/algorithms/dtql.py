"""Diffusion trusted Q-learning: a Gaussian policy of one step, which a diffusion of the data holds to its modes."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import optax
from jaxtyping import Array

from dpolicy._settings import Count, NonNegative, Positive, Sizes, at_least, within
from dpolicy._types import Loss
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    FieldPolicy,
    InSample,
    Optimised,
    actor_optimiser,
    acts,
    consistency_policy,
    critic_function,
    in_sample_critics,
)
from dpolicy.learning import Acting, Seen, algorithm, every, trained
from dpolicy.losses import (
    add,
    bptt,
    cloning,
    denoiser_weight,
    log_logistic_times,
    matching,
    perturb,
    trust_region,
)
from dpolicy.networks import Activation, TanhGaussian
from dpolicy.recipe import composed, prefixed

# Of a denoiser that never samples only its network and its noise are settings.
NETWORK, NOISE = ("hidden", "activation", "embedding"), ("data_std", "sigma_min", "sigma_max")
SQUEEZE = 1 + 1e-3  # in the authors' code: actions at a face of the box have a density


def _log_likelihood(model: TanhGaussian, example: Any, key: Any) -> Array:
    return model.log_prob_from_unsquashed(example.obs, jnp.arctanh(example.action / SQUEEZE))


def _drawn(actor: TanhGaussian, obs: Any, key: Any) -> Array:
    return actor.sample(obs, key)[0]


@composed(
    prefixed("behaviour_", consistency_policy, *NETWORK, shared=NOISE),
    actor_optimiser,
    in_sample_critics,
    behaviour_hidden=(256, 256, 256, 256),
    critic_hidden=(256, 256, 256),
    critic_activation="mish",
    critic_network="layer_norm",
    critic_reduction="sum",
)
def dtql(
    make_behaviour: Callable[..., FieldPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., InSample],
    *,
    trust_weight: NonNegative = 5.0,
    cloning_weight: NonNegative = 0.0,
    pretraining_updates: Annotated[int, at_least(0)] = 50_000,
    expectile_values: Literal["target_min", "online_min"] = "target_min",
    data_std: Annotated[float, within(0, open_low=True)] = 0.5,
    hidden: Sizes = (256, 256, 256),
    activation: Activation = "relu",
    candidates: Count = 1024,
    evaluation_candidates: Count = 1024,
    selection_temperature: Positive = 1.0,
) -> Algorithm:
    r"""DTQL: a one-step Gaussian policy climbs Q where a diffusion of the data denoises its actions (2405.19690).

    $$ L_\pi = \alpha\, E\, w(\sigma) |D_\nu(a_\pi + \sigma \epsilon, \sigma, s) - a_\pi|^2 - \min_k Q_k(s, a_\pi)
       - \gamma_c \log \pi(a | s), \qquad w = 1 / \sigma^2 + 1 / s_{data}^2, $$

    a_pi = tanh(mu + std z) of the policy, D_nu EDM's denoiser of the data's actions, clipped to the box and fitted by
    the same loss at these; its noise is log-logistic around the deviation of the data. The gradient passes the noised
    action, not the denoiser's parameters, and leads to the data's modes (`trust_region`); nothing is ever sampled by a
    chain. Critics are those of implicit Q-learning; V and Q step on what the update found, the policy on critics and
    denoiser after their steps, once `pretraining_updates` are over. Its action is one of 1,024 samples, drawn with
    probability softmax of the lower target value.

    The authors' code, and FlowRL's, have the lower ONLINE critic in the expectile (`expectile_values="online_min"`):
    values then reach their fixed point in fewer updates, with larger errors on the way.

    The authors have, by data set, `trust_weight` 1 to 50 in locomotion, .5 to 1 in antmaze (with `cloning_weight=1,
    expectile=0.9` and batches of 2,048), 100 to 200 in kitchen, 1,500 in pen; rates of 1e-5 to 3e-4, in half of the
    sets with a fall to 0 by a cosine. FlowRL's code draws the policy's sample with a key that is always the same, and
    the action from the softmax of a softmax, which is nearly uniform; here neither is so.

    Args:
        trust_weight: alpha, in units of Q.
        cloning_weight: gamma_c, of the likelihood of the data's action: the policy's width, which the other terms pull
            to 0.
        pretraining_updates: Updates through which denoiser and critics learn alone.
        expectile_values: Whether the expectile is of the lower target critic or of the lower online one.
        data_std: Deviation of actions that the denoiser is scaled for, and the median of its noise.
        hidden: Widths of the policy's network.
        activation: Activation of the policy.
        candidates: Samples among which its action is chosen while exploring.
        evaluation_candidates: The same in evaluation.
        selection_temperature: Of the softmax over them, in units of Q.
    """
    behaviour = make_behaviour(data_std=data_std, denoiser=True, later=lambda schedule, steps: ())
    critics = make_critics()
    if expectile_values == "online_min" and (subset := critics.critics.subset) is not None:
        raise ValueError(
            f"critic_subset must be None where expectile_values is online_min, which sees no target, got {subset}."
        )
    noise = perturb(behaviour.schedule, times=log_logistic_times(data_std))
    fit = lambda held: matching(noise, time_weight=denoiser_weight(data_std), held=held)

    def make(key: Any, spec: Any) -> TanhGaussian:
        layers: dict[str, Any] = {"hidden": hidden, "activation": activation}
        return TanhGaussian(spec.obs_size, spec.action_size, log_std_min=-5.0, **layers, key=key)

    def improve(s: Seen) -> Loss:
        return add(
            trust=(trust_weight, trust_region(_drawn, s.now.behaviour, fit(False))),
            q=(1.0, bptt(_drawn, critic_function(s.now.critic))),
            cloning=(cloning_weight, cloning(_log_likelihood)),
        )

    def select(count: int) -> Acting:
        ranked = Optimised(count, count, steps=0, rate=1.0)
        return acts(ranked.policy(_drawn, temperature=selection_temperature), select="target_min")

    method = algorithm(
        "dtql",
        "offline",
        explore=select(candidates),
        evaluate=select(evaluation_candidates),
        value=critics.valued(expectile_values),
        critic=critics.fitted(found=True),
        target=critics.critics.averaged(),
        behaviour=trained(behaviour.make, lambda s: fit(True), make_optimiser()),
        actor=every(trained(make, improve, make_optimiser()), 1, after=pretraining_updates),
    )
    return method._replace(phases=pretraining_updates)
