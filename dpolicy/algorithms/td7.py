"""TD7: TD3 with learned embeddings of states and actions, prioritised replay and checkpoints of the policy."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dpolicy._settings import Count, NonNegative, Positive
from dpolicy._types import Critic, Key, Loss, Metrics, Model, Scalar, Transition
from dpolicy.algorithm import Algorithm
from dpolicy.blocks import (
    Checkpoints,
    Critics,
    DeterministicPolicy,
    EmbeddedTargets,
    Policy,
    Sale,
    acting,
    actor_optimiser,
    critic_function,
    embedded_critics,
    policy_checkpoints,
    prioritised,
    sale,
    value_range,
)
from dpolicy.learning import Acting, Seen, algorithm, average, every, labelled, trained
from dpolicy.losses import add, batch_mean, bellman, bptt, huber_error, on
from dpolicy.networks import Seeing
from dpolicy.recipe import composed


@composed(sale, actor_optimiser, embedded_critics, policy_checkpoints, prioritised)
def td7(
    make_sale: Callable[..., Sale],
    make_optimiser: Callable[..., optax.GradientTransformation],
    make_critics: Callable[..., Critics],
    make_checkpoints: Callable[..., Checkpoints],
    prioritise: Callable[..., Algorithm],
    *,
    exploration_noise: NonNegative = 0.1,
    target_noise: NonNegative = 0.2,
    target_noise_clip: NonNegative = 0.5,
    actor_interval: Count = 2,
    target_interval: Count = 250,
    priority_floor: Positive = 1.0,
    imitation_weight: Positive | None = None,
    checkpoints: bool = True,
) -> Algorithm:
    r"""TD7: TD3 with state-action embeddings, prioritised replay and checkpoints of its policy (arXiv 2306.02451).

    Encoders z = f(s), w = g(z, a) predict the next embedding, |g(f(s), a) - f(s')|^2, apart from all else. Actor and
    critics see those of the copies before, at whose copying the targets are copied too, every 250 updates:

    $$ a' = \mathrm{clip}(\bar\mu(s', \bar z') + \mathrm{clip}(0.2 \epsilon, -0.5, 0.5), -1, 1), \qquad
       y = r + \gamma (1 - \mathrm{terminated})\, \mathrm{clip}\big(\min_j \bar Q_j(s', a', \bar z', \bar w'),
       \min, \max\big), $$
    $$ L = \sum_j H(Q_j(s, a, z, w) - y), \qquad p = \max(\max_j |Q_j - y|, 1)^{0.4}, \qquad
       L_\mu = -\tfrac12 \sum_j Q_j(s, \mu(s, z), z, g(z, \mu)), $$

    with Huber's loss H, batches drawn in proportion to the priorities p (`prioritised`), and the bounds of all targets
    up to the last copy (`value_range`). What acts is assessed over whole episodes, and what is evaluated is the
    checkpoint (`policy_checkpoints`, which says what differs where training does not wait for an assessment).

    The paper's main text bounds by the values of what is stored; its code, and this, by targets. Offline the paper adds
    the behaviour cloning of TD3+BC, the mean of |Q| times `imitation_weight=0.1` times the mean squared distance from
    the action, of the replay here. The authors act at random for 25,000 steps (`warmup`).

    Args:
        exploration_noise: Standard deviation of Gaussian noise added to the action while exploring, which is clipped
            to the box.
        target_noise: Standard deviation of the noise on the target policy's action.
        target_noise_clip: That noise is clipped to plus or minus this.
        actor_interval: The actor moves at every so many updates.
        target_interval: Updates between two copies of encoders, actor and critics.
        priority_floor: Errors below this are taken as this, so that every transition is drawn now and then; where the
            critics' loss turns linear.
        imitation_weight: Weight of the distance from the replay's action, relative to the size of Q; None for none.
        checkpoints: Whether the policy that acts is assessed, and the best kept; otherwise the actor acts as it is.
    """
    embed, critics = make_sale(), make_critics()
    policy = DeterministicPolicy(embed.make_actor)
    targets = EmbeddedTargets(policy.noisy(target_noise, bound=target_noise_clip), critics.discount)
    now = lambda parts: Seeing(parts.actor, parts.fixed_encoder)
    kept = make_checkpoints(policy=now)
    copied = lambda of: every(average(of), target_interval)

    def fit(s: Seen) -> Loss:
        error = huber_error(kappa=priority_floor)
        loss = bellman(lambda e, key: e.extras["target"], reduction=critics.reduction, error=error)
        return on(lambda critic: Seeing(critic, s.before.fixed_encoder), loss)

    def improve(s: Seen) -> Loss:
        encoder = s.before.fixed_encoder
        q = critic_function(Seeing(s.now.critic, encoder), "mean")
        ascend = bptt(policy.sample, q)
        terms = (
            ascend
            if imitation_weight is None
            else add(q=(1.0, ascend), imitation=(imitation_weight, imitation(q)))
        )
        return on(lambda actor: Seeing(actor, encoder), terms)

    def acts(policy: Policy, part: str) -> Acting:
        q = lambda obs, action: jnp.zeros(())  # it selects by no critic
        return lambda parts: acting(policy, getattr(parts, part) if checkpoints else now(parts), q)

    stages: dict[str, Any] = {
        **embed.stages(target_interval),
        "targets": labelled(targets.label),
        "critic": trained(critics.make, fit, critics.optimiser, horizon=critics.horizon),
        "actor": every(trained(policy.make, improve, make_optimiser()), actor_interval),
        "target_actor": copied("actor"),
        "target": copied("critic"),
        "bounds": value_range(target_interval),
        **(kept.stages if checkpoints else {}),
    }
    made = algorithm(
        "td7",
        "off_policy",
        explore=acts(policy.noisy(exploration_noise), "behaviour"),
        evaluate=acts(policy.act, "checkpoint"),
        memory=kept.memory if checkpoints else None,
        **stages,
    )
    return prioritise(
        algorithm=made, errors=targets.errors, interval=target_interval, priority_floor=priority_floor
    )


def imitation(q: Critic) -> Loss:
    """mean |Q(s, pi(s))|, without gradient, times mean (pi(s) - a)^2 (TD3+BC, arXiv 2106.06860)."""

    def loss(actor: Model, example: Transition, key: Key) -> tuple[Scalar, Metrics]:
        action = actor(example.obs)
        size = batch_mean(jnp.abs(jax.lax.stop_gradient(q(example.obs, action))))
        value = size * jnp.mean((action - example.action) ** 2)
        return value, {"loss": value}

    return loss
