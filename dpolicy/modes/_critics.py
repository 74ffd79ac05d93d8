"""Twin categorical critics for each group of experience, fitted to their own shares of a batch."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from dpolicy._settings import Fraction, NonNegative, Positive, Sizes
from dpolicy._types import Action, Key, Metrics, Model, Number, Observation, Scalar, Transition
from dpolicy.learning import Seen, Stage, average, trained
from dpolicy.losses import categorical_loss, categorical_target, support
from dpolicy.losses.categorical import check_support
from dpolicy.modes._groups import by_group, per_group
from dpolicy.networks import Activation, CategoricalQ, ensemble
from dpolicy.optimisers import adam
from dpolicy.recipe import tunable


def mean_weight(group: Int[Array, " b"], groups: int) -> Float[Array, " b"]:
    """One over the number of items of the same group: a sum so weighed is a sum of the groups' means."""
    return 1 / jax.ops.segment_sum(jnp.ones(group.shape, float), group, groups)[group]


class GroupedCritics(NamedTuple):
    """Critics with an axis of groups, and how they learn.

    Attributes:
        make: `(key, spec) -> critics`.
        optimiser: Of each group's critics.
        groups: How many.
        atoms: Their atoms.
        low: The lowest.
        high: The highest.
        discount: gamma.
        target_rate: Share of the critics that enters the targets at each update.
    """

    make: Callable[[Key, Any], Model]
    optimiser: optax.GradientTransformation
    groups: int
    atoms: int
    low: Number
    high: Number
    discount: Number
    target_rate: Number

    def lower_mean(self, critic: Model, obs: Observation, action: Action) -> Scalar:
        """The smaller mean of the two laws of ONE group's critics."""
        atom = support(self.low, self.high, self.atoms)
        # TF32 keeps ten bits, too few for a mean over atoms that differ little in value.
        return jnp.min(jnp.matmul(jnp.exp(critic(obs, action)), atom, precision="highest"))

    def targets(self, critics: Model, live: Bool[Array, " g"], batch: Transition) -> Float[Array, "b atoms"]:
        """The element-wise minimum of the two projected laws at the extras "next_action", each item by its group."""

        def one(critic: Model, *item: Any) -> Float[Array, " atoms"]:
            obs, action, reward, terminated = item
            project = lambda p: categorical_target(
                p, reward, terminated, self.discount, low=self.low, high=self.high
            )
            # As the method has it: the minimum of two laws is no law, its sum is below 1 where they differ.
            return jnp.min(jax.vmap(project)(jnp.exp(critic(obs, action))), axis=0)

        extras = batch.extras
        return by_group(
            one, critics, live, batch.next_obs, extras["next_action"], extras["reward"], batch.terminated
        )

    def loss(self, s: Seen) -> Callable[[Model, Transition, Key], tuple[Scalar, Metrics]]:
        """Of a batch whose extras hold each item's "group", the "reward" it learns from and the "next_action"."""
        live, targets = (
            s.before.discovered.live,
            self.targets(s.before.target, s.before.discovered.live, s.batch),
        )

        def each(critic: Model, obs: Observation, action: Action, target: Float[Array, " atoms"]) -> Scalar:
            return jnp.sum(jax.vmap(categorical_loss, in_axes=(0, None))(critic(obs, action), target))

        def of_batch(critics: Model, batch: Transition, key: Key) -> tuple[Scalar, Metrics]:
            losses = by_group(each, critics, live, batch.obs, batch.action, targets)
            # A sum of means: no group's gradient depends on how many there are.
            total = jnp.sum(mean_weight(batch.extras["group"], self.groups) * losses)
            return total, {"loss": jnp.mean(losses)}

        return of_batch

    def fitted(self) -> Stage:
        """The stage that fits them; the part "discovered" says which groups there are."""
        return trained(self.make, self.loss, self.optimiser, whole=True)

    def averaged(self) -> Stage:
        """The stage of their targets, which follows the part called critic."""
        return average("critic", self.target_rate)


@tunable(
    "critic_learning_rate",
    "max_grad_norm",
    "weight_decay",
    "critic_hidden",
    "critic_activation",
    "atoms",
    "value_low",
    "value_high",
    "discount",
    "target_rate",
)
def grouped_critics(
    *,
    groups: int,
    critic_learning_rate: Positive = 5e-4,
    max_grad_norm: Positive | None = None,
    weight_decay: NonNegative = 0.0,
    critic_hidden: Sizes = (512, 256, 128),
    critic_activation: Activation = "elu",
    atoms: int = 51,
    value_low: Number = 0.0,
    value_high: Number = 5.0,
    discount: Fraction = 0.99,
    target_rate: Fraction = 0.05,
) -> GroupedCritics:
    """Twin categorical critics for every group (DDiffPG, arXiv 2406.00681).

    Args:
        groups: How many.
        critic_learning_rate: Adam's rate for the critics.
        max_grad_norm: Bound on the norm of one group's gradient; None for none.
        weight_decay: Decoupled weight decay.
        critic_hidden: Widths of each critic's hidden layers.
        critic_activation: Activation of the critics.
        atoms: Atoms of the critics' laws.
        value_low: The lowest atom. Values outside the atoms cannot be learned.
        value_high: The highest atom.
        discount: Discount gamma.
        target_rate: Share of the online critics that enters the targets at each update.

    Raises:
        ValueError: For a value out of its range.
    """
    check_support(value_low, value_high, atoms, "value_{}")
    network: dict[str, Any] = {"atoms": atoms, "hidden": critic_hidden, "activation": critic_activation}

    def make(key: Key, spec: Any) -> Model:
        one = partial(CategoricalQ, spec.obs_size, spec.action_size, **network)
        twins = lambda key: ensemble(lambda key: one(key=key), 2, key=key)
        return eqx.filter_vmap(twins)(jax.random.split(key, groups))

    each = adam(critic_learning_rate, max_grad_norm=max_grad_norm, weight_decay=weight_decay)
    return GroupedCritics(make, per_group(each), groups, atoms, value_low, value_high, discount, target_rate)
