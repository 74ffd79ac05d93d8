"""Critics that never see an action which the data does not hold (IQL)."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import optax

from dpolicy._settings import Positive, Sizes, within
from dpolicy._types import Critic, Key, Loss, Model, Number
from dpolicy.blocks._critics import Critics, CriticValues, guide, q_critics
from dpolicy.learning import Stage, trained
from dpolicy.losses import expectile_regression
from dpolicy.networks import Activation, ValueNetwork
from dpolicy.recipe import composed, tunable


class InSample(NamedTuple):
    """A value network and critics, each the other's target.

    Attributes:
        critics: The ensemble of Q.
        make: `(key, spec) -> value network`, called `value(obs)`.
        optimiser: Of that.
        fit: What V is fitted to, of a critic: `expectile_regression` with its tau, or a `regularised_value`.
    """

    critics: Critics
    make: Callable[[Key, Any], Model]
    optimiser: optax.GradientTransformation
    fit: Callable[[Critic], Loss]

    def valued(self, values: CriticValues = "target_min") -> Stage:
        """The stage of V, fitted to the lower TARGET critic, or to another, at the data's actions."""
        loss = lambda s: self.fit(guide(s.before, values))
        return self.critics.of_some(trained(self.make, loss, self.optimiser))

    def fitted(self, *, found: bool = False) -> Stage:
        """The stage of the critics, towards r + gamma V(s') with V after its step, or with that which was `found`."""
        value = lambda s: (s.before if found else s.now).value
        return self.critics.fitted(lambda s: lambda example, key: value(s)(example.next_obs))


@tunable("value_layer_norm", "critic_hidden", "critic_activation", "critic_learning_rate")
@composed(q_critics)
def implicit_critics(
    make_critics: Callable[..., Critics],
    *,
    fit: Callable[[Critic], Loss],
    value_layer_norm: bool = False,
    critic_hidden: Sizes = (256, 256),
    critic_activation: Activation = "relu",
    critic_learning_rate: Positive = 3e-4,
) -> InSample:
    r"""A value network that is fitted to critics over the data's actions, and critics that are fitted to it.

    $$ y = r + \gamma (1 - \mathrm{terminated}) V(s'). $$

    Args:
        fit: `critic -> loss` of V, per example; the model of the loss is called `value(obs)`.
        value_layer_norm: Whether the value network normalises its layers.
        critic_hidden: Widths of the hidden layers of each critic and of the value network.
        critic_activation: Activation of critics and value network.
        critic_learning_rate: Adam's rate for critics and value network.
    """

    def make(key: Key, spec: Any) -> Model:
        return ValueNetwork(
            spec.obs_size,
            hidden=critic_hidden,
            activation=critic_activation,
            layer_norm=value_layer_norm,
            key=key,
        )

    critics = make_critics(
        critic_hidden=critic_hidden,
        critic_activation=critic_activation,
        critic_learning_rate=critic_learning_rate,
    )
    return InSample(critics, make, critics.optimiser, fit)


@tunable("expectile")
@composed(implicit_critics)
def in_sample_critics(
    make_critics: Callable[..., InSample],
    *,
    expectile: Annotated[Number, within(0, 1, open_low=True, open_high=True)] = 0.7,
) -> InSample:
    r"""Implicit Q-learning: an expectile of Q over the data's actions in the place of its maximum (arXiv 2110.06169).

    $$ V(s) = \arg\min_V E_{a \sim \nu} |\tau - 1(\bar Q < V)| (\bar Q(s, a) - V)^2, \qquad
       y = r + \gamma (1 - \mathrm{terminated}) V(s'). $$

    Args:
        expectile: tau: .5 is the mean of Q over the data's actions, towards 1 their maximum.
    """
    return make_critics(fit=lambda q: expectile_regression(q, expectile))
