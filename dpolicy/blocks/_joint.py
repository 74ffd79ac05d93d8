"""Networks with batch renormalisation as stages: statistics that a loss reports, and CrossQ's joint pass."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from dpolicy import _checks
from dpolicy._settings import Fraction, at_least
from dpolicy._types import Key, Loss, Metrics, Model, Number, Scalar, Transition
from dpolicy.blocks._critics import (
    KIND_SETTINGS,
    Critics,
    Policy,
    critic_function,
    q_critics,
    temporal_difference,
)
from dpolicy.learning import Seen, Stage, trained
from dpolicy.networks import Ensemble, QNetwork, renormalised
from dpolicy.recipe import composed, tunable

_CARRIED = "carried_"


def carried(values: Sequence[Array]) -> Metrics:
    """Arrays that a loss reports for `carrying`, as metrics; they are averaged over the batch as those are."""
    return {f"{_CARRIED}{i}": jax.lax.stop_gradient(value) for i, value in enumerate(values)}


def carrying(stage: Stage, put: Callable[[Model, tuple[Array, ...]], Model]) -> Stage:
    """A trained stage, whose model takes in after each step what its loss has reported: running statistics.

    Whatever is in a model is a parameter, but what carries no gradient stays as it is; so a model may hold statistics,
    and this puts the new ones in.

    Args:
        stage: As `trained` makes it, of a loss whose metrics hold `carried(values)`; these are not reported further.
        put: `(model, values) -> model`, the values in the order they were given in.
    """
    _checks.instance("stage", stage, Stage, "a Stage")
    _checks.slot("put", put, 2, "(model, values) -> model")

    def step(part: Any, seen: Seen, key: Key) -> tuple[Any, dict[str, Any], Metrics]:
        part, added, metrics = stage.step(part, seen, key)
        names = sorted(
            (n for n in metrics if n.startswith(_CARRIED)), key=lambda n: int(n.removeprefix(_CARRIED))
        )
        if not names:
            raise ValueError(
                f"the loss of stage {seen.stage!r} must report what is carried, got {list(metrics)}."
            )
        model = put(part.model, tuple(metrics[name] for name in names))
        kept = {name: value for name, value in metrics.items() if name not in names}
        return eqx.tree_at(lambda p: p.model, part, model), added, kept

    return stage._replace(step=step)


def over_the_batch(loss: Loss) -> Loss:
    """`loss`, whose model, a policy with a `RenormMLP`, takes the statistics of the batch and reports them (`carried`).

    Args:
        loss: On a policy whose network sees the observation.
    """

    def one(model: Model, example: Transition, key: Key) -> tuple[Scalar, Metrics]:
        _, network, statistics = model.mlp.over(example.obs)
        value, metrics = loss(eqx.tree_at(lambda m: m.mlp, model, network), example, key)
        return value, {**metrics, **carried(statistics)}

    return one


class JointCritics(NamedTuple):
    """Critics with batch renormalisation, which need no targets, and how they learn.

    Attributes:
        critics: Networks, optimiser and discount; called by their running statistics.
        rate: Share of a batch that enters these.
    """

    critics: Critics
    rate: Number

    def loss(self, policy: Policy, actor: Model, critic: Model, temperature: Number | None) -> Loss:
        """The error of each transition, both of whose values come of one pass over [(s, a), (s', a')].

        Args:
            policy: Draws a' ~ pi(s'), with its log-density.
            actor: Its parameters.
            critic: What it selects by, if it does.
            temperature: Weight of the entropy; None for none.
        """
        q, discount, reduction = critic_function(critic), self.critics.discount, self.critics.reduction

        def one(model: Model, example: Transition, key: Key) -> tuple[Scalar, Metrics]:
            action, log_prob = policy(actor, q, example.next_obs, key)
            both = jnp.stack([example.obs, example.next_obs]), jnp.stack([example.action, action])

            def values(member: Model) -> tuple[Array, tuple[Array, ...]]:
                out, _, statistics = member.mlp.over(*both)
                return out[:, 0], statistics

            pairs, statistics = eqx.filter_vmap(values)(model.members)
            following = jnp.min(pairs[:, 1]) - (0.0 if temperature is None else temperature * log_prob)
            # `bellman` cuts the gradient of the target.
            error = temporal_difference(lambda *_: following, discount, reduction=reduction)
            value, metrics = error(lambda *_: pairs[:, 0], example, key)
            return value, {**metrics, **carried(statistics)}

        return one

    def fitted(
        self, policy: Policy, temperature: Callable[[Seen], Number] | None = None, *, actor: str = "actor"
    ) -> Stage:
        """The stage that fits them, by the policy as the update found it.

        Args:
            policy: Draws the next action.
            temperature: `seen -> ` the weight of the entropy; None for none.
            actor: The part whose parameters the policy has.
        """

        def loss(s: Seen) -> Loss:
            weight = None if temperature is None else temperature(s)
            return self.loss(policy, getattr(s.before, actor), s.before.critic, weight)

        stage = trained(self.critics.make, loss, self.critics.optimiser, horizon=self.critics.horizon)
        return carrying(stage, self.moved)

    def moved(self, model: Model, statistics: Sequence[Array]) -> Model:
        """The ensemble, or a single network with a `RenormMLP`, with its running statistics moved."""
        where = lambda m: (m.members if isinstance(m, Ensemble) else m).mlp
        return eqx.tree_at(where, model, where(model).moved(statistics, self.rate))


@tunable("renorm_rate", "renorm_warmup")
@composed(
    q_critics,
    without=("target_rate", *KIND_SETTINGS),
    critic_hidden=(2048, 2048),
    critic_learning_rate=1e-3,
    critic_reduction="sum",
)
def joint_critics(
    make_critics: Callable[..., Critics],
    *,
    b1: Number = 0.9,
    renorm_rate: Fraction = 0.01,
    renorm_warmup: Annotated[int, at_least(0)] = 100_000,
) -> JointCritics:
    """Wide critics with batch renormalisation, fitted without target networks (CrossQ, arXiv 1902.05605).

    Args:
        b1: Decay of Adam's first moment.
        renorm_rate: Share of a batch that enters the running statistics at each step.
        renorm_warmup: Steps of a network for which batches are normalised plainly, before they are renormalised.
    """
    network = renormalised(QNetwork, warmup=renorm_warmup)
    return JointCritics(make_critics(network=network, b1=b1), renorm_rate)
