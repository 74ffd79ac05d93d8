"""Whether two actor losses are one mechanism: their gradients on one batch, one network and shared noise."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from dpolicy import _checks
from dpolicy._types import Action, Critic, Key, Loss, Metrics, Model, Observation, Transition
from dpolicy.algorithm import Algorithm, check_algorithm
from dpolicy.fields import AbstractField
from dpolicy.learning import Parts, Seen
from dpolicy.losses import batched

# Streams of an example's key that no chain of transforms draws from (its links fold in 0, 1, 2, ...).
_REMEMBERED, _LABELLED = 2**30, 2**30 + 1


class Alignment(NamedTuple):
    """How the gradients of n losses lie to each other; row i, column j compares loss i with loss j.

    Attributes:
        cosine: Mean over draws of cos(g_i, g_j), both gradients with the same keys.
        cosine_error: Half the width of its 95 % interval.
        expected_cosine: cos(E g_i, E g_j), the noise of the draws removed; nan where noise is all there is.
        expected_cosine_error: Half the width of its 95 % interval (jackknife).
        ratio: Geometric mean over draws of |g_i| / |g_j|.
        ratio_error: Half the width of its 95 % interval, as a share of it: the interval is ratio * exp(-+ this).
    """

    cosine: Float[Array, "n n"]
    cosine_error: Float[Array, "n n"]
    expected_cosine: Float[Array, "n n"]
    expected_cosine_error: Float[Array, "n n"]
    ratio: Float[Array, "n n"]
    ratio_error: Float[Array, "n n"]


def network(algorithms: Mapping[str, Algorithm], spec: Any, key: Key) -> Model:
    """A fresh network of the kind that all the algorithms train.

    Args:
        algorithms: By name; off policy or offline.
        spec: With `obs_size` and `action_size`.
        key: What its parameters are made from.

    Raises:
        ValueError: For an algorithm whose loss cannot be audited, or that trains another network than the first.
    """

    _checks.one_key(key)

    def own(name: str) -> Callable[[Key], Model]:
        algorithm = algorithms[name]
        check_algorithm(algorithm, f"the algorithm {name}")
        if algorithm.family == "on_policy":
            raise ValueError(
                f"{name} is on-policy: its loss needs a rollout's advantages and likelihoods, and cannot be audited "
                "on a batch."
            )
        _check_stage(name, algorithm, "actor")
        return lambda key: algorithm.init(key, spec).actor

    made = {name: own(name) for name in algorithms}
    first, *others = made
    shape = {name: jax.eval_shape(make, key) for name, make in made.items()}
    _check_takes_observations(first, shape[first], spec)
    for name in others:
        # Comparing the trees compares the static parts: what is predicted, and under which schedule.
        if jax.tree.structure(shape[name]) != jax.tree.structure(shape[first]) or jax.tree.leaves(
            shape[name]
        ) != jax.tree.leaves(shape[first]):
            raise ValueError(
                f"{name} must train the same network as {first}, with one schedule, prediction and size: set its "
                "schedule, prediction, hidden, ... alike."
            )
    return made[first](key)


def _check_takes_observations(name: str, model: Any, spec: Any) -> None:
    """Raise `ValueError` for a field of more than the observation, whose losses are about another batch."""
    if not isinstance(model, AbstractField):
        return
    action, obs = (jax.ShapeDtypeStruct((size,), float) for size in (spec.action_size, spec.obs_size))
    try:
        eqx.filter_eval_shape(lambda field, *inputs: field(*inputs), model, action, jnp.zeros(()), obs)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"{name} trains a field of more than the observation (ddiffpg: the embedding of a mode), which an audit "
            "has no batch for."
        ) from error


def _check_stage(name: str, algorithm: Algorithm, stage: str) -> None:
    """Raise `ValueError` unless the algorithm has a stage of that name that descends a loss of one example."""
    stages = algorithm.stages or {}
    losses = [called for called, each in stages.items() if each.loss is not None]
    if stage not in losses:
        raise ValueError(
            f"{name} must have a stage {stage!r} with a loss of single examples; it has "
            f"{', '.join(losses) or 'none, not being made of stages'}."
        )


def replaced(algorithm: Algorithm, state: Parts, **models: Model) -> Parts:
    """The state with these models in the place of the parts so named, and of every average or copy of them."""

    def root(part: str) -> str:
        of = algorithm.stages[part].of if algorithm.stages and part in algorithm.stages else None
        return part if of is None else root(of)

    return Parts(state, {part: models[root(part)] for part in state if root(part) in models})


def objective(algorithm: Algorithm, state: Parts, q: Critic, *, stage: str = "actor") -> tuple[Model, Loss]:
    """The model that a stage trains, and the per-example loss it descends where `q` is the critic in every role.

    `q` guides, selects and backs up, as an ensemble of one in the place of the part "critic" and of its targets. What
    stages before this one add to an example, and what is stored beside it in a replay, is added unless it is there.

    Args:
        algorithm: One made of stages.
        state: Its state.
        q: `q(obs, action) -> scalar`.
        stage: The stage.

    Raises:
        ValueError: For an algorithm without such a stage.
    """
    check_algorithm(algorithm)
    _check_stage(algorithm.name, algorithm, stage)
    _checks.critic("q", q)

    def alone(obs: Observation, action: Action) -> Float[Array, "1"]:
        return q(obs, action)[None]

    stages = dict(algorithm.stages or {})
    names = list(stages)
    parts = replaced(algorithm, state, critic=alone)
    seen = Seen(parts, parts, None, parts.updates + 1, {}, stage)
    per_example = stages[stage].loss(seen)
    before = [stages[name] for name in names[: names.index(stage)]]
    remembered = [each.memory for each in before if each.memory is not None]
    labels = [each.label for each in before if each.label is not None]

    def loss(model: Model, example: Transition, key: Key) -> tuple[Float[Array, ""], Metrics]:
        extras = dict(example.extras)
        for i, (start, revise) in enumerate(remembered):
            # What is stored beside a transition when it is new, unless the example has been stored already.
            example = dataclasses.replace(example, extras={**start(example), **extras})
            extras = {**example.extras, **revise(seen)(example, jax.random.fold_in(key, _REMEMBERED - i))}
            example = dataclasses.replace(example, extras=extras)
        for i, label in enumerate(labels):
            # What the example brings with it stands, so that one can be audited on labels of one's own.
            extras = {**label(seen, example, jax.random.fold_in(key, _LABELLED + i)), **extras}
            example = dataclasses.replace(example, extras=extras)
        return per_example(model, example, key)

    return getattr(state, stage), loss


def objectives(
    algorithms: Mapping[str, Algorithm], model: Model, q: Critic, spec: Any, key: Key
) -> dict[str, Loss]:
    """The actor loss of every algorithm about one network and under one critic.

    `model` takes the place of the actor and of whatever follows it (an average that backs up, a reference that
    proposes), and `q` of every critic, so that nothing in a loss stems from a network of its own. Tuned temperatures
    and running statistics of Q are those of a fresh state.

    Args:
        algorithms: By name; all of one `network`.
        model: That network, with any parameters.
        q: `q(obs, action) -> scalar`.
        spec: With `obs_size` and `action_size`.
        key: What the rest of their states is made from.

    Returns:
        Per-example losses, for `gradient_alignment(losses, model, ...)`.
    """
    losses = {}
    _checks.one_key(key)
    for name, algorithm in algorithms.items():
        check_algorithm(algorithm, f"the algorithm {name}")
        _check_stage(name, algorithm, "actor")
        state = replaced(algorithm, algorithm.init(key, spec), actor=model)
        losses[name] = objective(algorithm, state, q)[1]
    return losses


def gradients(
    losses: Mapping[str, Loss], model: Model, batch: Any, key: Key, *, draws: int
) -> Float[Array, "draws n p"]:
    """The gradient of every loss in the parameters of `model`, for `draws` keys that all losses share."""

    def of(loss: Loss, key: Key) -> Float[Array, " p"]:
        gradient = eqx.filter_grad(lambda model: batched(loss)(model, batch, key)[0])(model)
        # One vector: the angle is that of all parameters together.
        return ravel_pytree(gradient)[0]

    # One draw after the other, since a gradient of each loss takes the memory of its whole batch.
    one = lambda key: jnp.stack([of(loss, key) for loss in losses.values()])
    return jax.lax.map(one, jax.random.split(_checks.one_key(key), draws))


def gradient_alignment(
    losses: Mapping[str, Loss], model: Model, batch: Any, key: Key, *, draws: int = 16
) -> Alignment:
    r"""Compare the gradients that several losses give one network on one batch.

    For draw d, with g_i^d the gradient of the batch mean of loss i under key d (the same for every loss):

    $$ \text{cosine}_{ij} = \frac1D \sum_d \frac{g_i^d \cdot g_j^d}{|g_i^d|\,|g_j^d|}, \qquad
       \text{ratio}_{ij} = \exp \frac1D \sum_d \log \frac{|g_i^d|}{|g_j^d|} $$

    A cosine of 1 in every draw is one loss in two parameterisations, as for the two sides of
    sum_k w_k |f - e_k|^2 = |f - sum_k w_k e_k|^2 + const (SDAC and MaxEntDP). Two estimators of one gradient that
    differ in their noise agree in the *expected* cosine only, whose inner products pair different draws,
    E g_i . E g_j ~ 1/(D (D - 1)) sum_{d != e} g_i^d . g_j^e, and so are unbiased. Intervals are Student's over draws,
    for the expected cosine of its leave-one-out values; they are about the noise, for this batch and this network.

    Draws are independent only of the noise in the losses: a loss without noise has one gradient, and no interval.

    Args:
        losses: Two or more per-example losses `(model, example, key) -> (scalar, metrics)` by name, those of published
            algorithms (`objectives`) or your own. Those that draw the same things in the same order from their key
            share their noise.
        model: The network; every inexact array in it is a parameter.
        batch: Transitions with one leading axis.
        key: What the shared keys are made from.
        draws: Keys, at least 3. The gradients of all of them are held at once.

    Returns:
        The `Alignment`, in the order of `losses`.

    Raises:
        ValueError: For fewer than two losses or three draws.
    """
    if len(losses) < 2:
        raise ValueError(f"losses must name at least two losses to compare, got {list(losses)}.")
    for name, loss in losses.items():
        _checks.function(f"the loss {name}", loss, "(model, example, key) -> (scalar, metrics)")
    _checks.integer("draws", draws, 3)
    from scipy.stats import t

    quantile = float(t.ppf(0.975, draws - 1))
    g = gradients(losses, model, batch, key, draws=draws)
    # gram[d, i, e, j] = g_i^d . g_j^e
    gram = jnp.einsum("dip,ejp->diej", g, g, precision=jax.lax.Precision.HIGHEST)
    same = jnp.einsum("didj->dij", gram)
    norm = jnp.sqrt(jnp.einsum("dii->di", same))
    cosine = same / (norm[:, :, None] * norm[:, None, :])
    logs = jnp.log(norm[:, :, None]) - jnp.log(norm[:, None, :])

    # Sums over all pairs of different draws, whose noise is independent. A cosine has no unit, so that the number of
    # pairs is not divided by.
    pairs = jnp.sum(gram, axis=(0, 2)) - jnp.sum(same, axis=0)
    # The pairs that hold draw d, as first or as second; the pair (d, d), in both sums, was never among `pairs`.
    touched = jnp.sum(gram, axis=2) + jnp.sum(gram, axis=0).transpose(1, 0, 2) - 2 * same
    leave_one_out = jax.vmap(_cosine_of)(pairs[None] - touched)
    # The jackknife's factor: values that leave one draw out lie closer together than draws do, by draws - 1.
    spread = jnp.sqrt(
        (draws - 1) / draws * jnp.sum((leave_one_out - leave_one_out.mean(0)[None]) ** 2, axis=0)
    )
    error = lambda values: quantile * jnp.std(values, axis=0, ddof=1) / draws**0.5
    return Alignment(
        cosine=jnp.mean(cosine, axis=0),
        cosine_error=error(cosine),
        expected_cosine=_cosine_of(pairs),
        expected_cosine_error=quantile * spread,
        ratio=jnp.exp(jnp.mean(logs, axis=0)),
        ratio_error=error(logs),
    )


def _cosine_of(inner: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """Inner products to cosines; nan where the estimate of a squared norm is not positive."""
    square = jnp.diagonal(inner)
    norm = jnp.sqrt(jnp.where(square > 0, square, jnp.nan))
    return jnp.clip(inner / (norm[:, None] * norm[None, :]), -1.0, 1.0)
