"""DIME: a Langevin policy whose entropy has a bound that can be climbed."""

from collections.abc import Callable
from typing import Annotated, Any

import optax

from dpolicy._settings import Count, Finite, Positive, at_least, within
from dpolicy._types import Key, Loss, Metrics, Model, Number, Scalar, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    JointCritics,
    PathPolicy,
    actor_optimiser,
    acts,
    critic_function,
    joint_categorical_critics,
    path_policy,
)
from dpolicy.learning import Seen, algorithm, every, trained, tuned
from dpolicy.losses import soft_value
from dpolicy.optimisers import adam
from dpolicy.recipe import composed


@composed(path_policy, actor_optimiser, joint_categorical_critics)
def dime(
    make_policy: Callable[..., PathPolicy],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., JointCritics],
    *,
    temperature: Positive = 1.0,
    cost_target_scale: Finite = 4.0,
    temperature_learning_rate: Positive = 1e-3,
    gradient_bound: Positive | None = 1.0,
    adam_b1: Annotated[Number, within(0, 1, open_high=True)] = 0.5,
    renorm_warmup: Annotated[int, at_least(0)] = 100_000,
    actor_interval: Count = 3,
) -> Algorithm:
    r"""DIME: SAC with a diffusion policy, whose entropy is bounded by the cost of its paths (arXiv 2502.02316).

    The policy a = tanh(x_0) is the end of a Langevin chain from N(0, 2.5^2) with a learned control and learned step
    sizes; C is the log-ratio of its path against the uncontrolled way back (`dpolicy.samplers.controlled_path`), whose
    mean is at least that of log pi(a|s):

    $$ L_\pi = \lambda C - \frac1J \sum_j Q_j(s, a), \qquad
       L_\lambda = \lambda (4 d - E[C - \log p(x_N)]), $$

    differentiated through the whole chain. But for log Z that is lambda KL(the chain || noising kernels from
    exp(Q / lambda) / Z). The critics are laws over atoms, without targets, fitted by a joint pass as those of `crossq`;
    C at s' stands there for log pi (`joint_categorical_critics`). Actor and temperature move at every third update,
    after the critics. In evaluation the policy draws, too.

    A target of 4 d for the running cost is one of -1.66 d for the bound of the entropy. At first it is about 2.9 d, so
    that the temperature begins by falling, and .44 of all coordinates are beyond .96. The atoms must hold Q, entropy
    included: [-200, 200] of the DeepMind suite, [-1600, 1600] of Gym. Published runs make two updates a step.

    The copy of the actor that the code draws the next action from is made anew whenever the actor moves, so it is the
    actor. Other than there, the control's last layer starts at 0, and not at 1e-8.

    Args:
        temperature: Weight lambda of the entropy at first.
        cost_target_scale: The target of the running cost is this times the number of action dimensions, in nats.
        temperature_learning_rate: Adam's rate for log lambda.
        gradient_bound: Bound on every entry of the actor's gradient, before Adam; None for none. Entries that are not
            numbers are zeroed.
        adam_b1: Decay of Adam's first moment, of actor and critics.
        renorm_warmup: Steps of a network for which batches are normalised plainly, before they are renormalised.
        actor_interval: Actor and temperature move at every so many updates.
    """
    policy, critics = make_policy(), make_critics(b1=adam_b1, renorm_warmup=renorm_warmup)
    links = [optax.zero_nans()] if gradient_bound is None else [optax.zero_nans(), optax.clip(gradient_bound)]

    def improve(s: Seen) -> Loss:
        q = critic_function(s.now.critic, "mean")

        def loss(actor: Model, example: Transition, key: Key) -> tuple[Scalar, Metrics]:
            path = policy.path(actor, example.obs, key)
            climb = soft_value(lambda *_: (path.point, path.log_ratio), q, s.before.temperature)
            value, metrics = climb(actor, example, key)
            return value, {**metrics, "running_cost": path.running}

        return loss

    def gap(s: Seen) -> Any:
        return cost_target_scale * s.batch.action.shape[-1] - s.metrics["actor/running_cost"]

    actor = trained(policy.make, improve, optax.chain(*links, make_optimiser(b1=adam_b1)))
    lagrange = tuned(temperature, gap, adam(temperature_learning_rate), multiplier="value")
    return algorithm(
        "dime",
        "off_policy",
        explore=acts(policy.act),
        evaluate=acts(policy.act),
        critic=critics.fitted(policy.act, lambda s: s.before.temperature),
        actor=every(actor, actor_interval),
        temperature=every(lagrange, actor_interval),
    )
