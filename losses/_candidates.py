"""Transforms that change the action, before any noise is added."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from dpolicy._batch import batch_sum
from dpolicy._blocks import in_blocks
from dpolicy._checks import boolean, critic, function, integer, non_negative, positive, returned
from dpolicy._select import weighed
from dpolicy._types import Action, Critic, Key, Number, Observation, Scalar
from dpolicy.losses.match import Match, Transform, compared
from dpolicy.losses.weights import values


def require_clean(name: str, match: Match) -> None:
    """Raise `ValueError` when noise has been added: a new action would leave x and its target behind."""
    if match.schedule is not None:
        raise ValueError(f"{name} must come before noise is added (before perturb in the chain).")


def _replace(actions: Float[Array, "n a"], match: Match) -> Match:
    size = actions.shape[0]
    # A link before may have given the state another weight than 1: it is kept.
    weight = jnp.full((size,), jnp.sum(match.weight) / size, actions.dtype)
    return match.over(actions, weight, size)


def candidates(policy: Callable[[Observation, Key], Action], n: int) -> Transform:
    """Replace the actions by `n` draws `policy(obs, key)`, of equal weight and the same total weight.

    The base measure of what follows is then that policy: with `boltzmann` the fit is policy mirror descent.

    Examples:
        >>> policy = lambda obs, key: obs[0] * jnp.ones(2)
        >>> match = candidates(policy, 4)(example, start(example), key)
        >>> print(match.action[0], match.weight)
        [0.5 0.5] [0.25 0.25 0.25 0.25]
    """
    function("policy", policy, "(obs, key) -> action")
    integer("n", n)

    def transform(example: Any, match: Match, key: Key) -> Match:
        require_clean("candidates", match)
        shape = match.action.shape[1:]
        draw = lambda key: returned("policy", policy(example.obs, key), shape)
        actions = in_blocks(draw, jax.random.split(key, n))
        return _replace(actions, match)

    return transform


def stored_actions(name: str) -> Transform:
    """Replace the actions by those that the example brings among its extras, [n, a], of equal weight.

    Such as actions of a behaviour policy, drawn once for every row of a data set. Beside the data's own action, each
    weighing the same: mix((1 / (n + 1), chain()), (n / (n + 1), stored_actions(name))).

    Examples:
        >>> match = stored_actions("support")(stored(support=jnp.zeros((3, 2))), start(example), key)
        >>> print(match.action.shape, match.weight)
        (3, 2) [0.333 0.333 0.333]
    """

    def transform(example: Any, match: Match, key: Key) -> Match:
        require_clean("stored_actions", match)
        if name not in example.extras:
            there = ", ".join(example.extras) or "none"
            raise ValueError(f"stored_actions must be given a name among the extras, {there}; got {name!r}.")
        actions = example.extras[name]
        width = match.action.shape[1]
        if jnp.ndim(actions) != 2 or actions.shape[1] != width:
            shape = jnp.shape(actions)
            raise ValueError(f"extras[{name!r}] must be actions of shape (n, {width}), got shape {shape}.")
        return _replace(actions, match)

    return transform


def uniform(n: int, *, bound: float = 1.0) -> Transform:
    """Replace the actions by `n` draws uniform on [-bound, bound]^d, of equal weight and the same total weight.

    Examples:
        >>> print(uniform(4)(example, start(example), key).weight)
        [0.25 0.25 0.25 0.25]
    """
    integer("n", n)
    positive("bound", bound)

    def transform(example: Any, match: Match, key: Key) -> Match:
        require_clean("uniform", match)
        shape = (n, match.action.shape[1])
        return _replace(jax.random.uniform(key, shape, match.action.dtype, -bound, bound), match)

    return transform


def mix(*branches: Transform | tuple[Number, Transform]) -> Transform:
    """Side by side: every branch transforms the incoming record, and their candidates are concatenated.

    A branch is a transform or a pair (share, transform), whose weights are multiplied by the share (default
    1 / number of branches). QVPO's uniform term: mix((1.0, chain()), (10 * omega, uniform(10))).

    Examples:
        >>> print(mix(chain(), (0.3, uniform(3)))(example, start(example), key).weight)
        [0.5 0.1 0.1 0.1]
    """
    if not branches:
        raise ValueError("mix must be given at least one branch, got none.")
    pairs = [branch if isinstance(branch, tuple) else (1 / len(branches), branch) for branch in branches]
    for pair in pairs:
        if len(pair) != 2:
            raise ValueError(
                f"a branch of mix must be a transform or a pair (share, transform), got {pair!r}."
            )
        non_negative("a share of mix", pair[0])
        function("a branch of mix", pair[1], "(example, match, key) -> match")

    def transform(example: Any, match: Match, key: Key) -> Match:
        require_clean("mix", match)
        parts = [branch(example, match, jax.random.fold_in(key, i)) for i, (_, branch) in enumerate(pairs)]
        for part in parts:
            require_clean("every branch of mix", part)
        action = jnp.concatenate([part.action for part in parts])
        weight = jnp.concatenate(
            [weighed(share, part.weight) for (share, _), part in zip(pairs, parts, strict=True)]
        )
        mixed = match.over(action, weight, sum(part.candidates for part in parts))
        report = {name: value for part in reversed(parts) for name, value in part.report.items()}
        return dataclasses.replace(mixed, normalised=all(part.normalised for part in parts), report=report)

    return transform


def best(q: Critic) -> Transform:
    """Keep the candidate of highest Q, with its weight relative to equal weights (n times its weight).

    After `candidates` alone it weighs 1; after `advantage(q)` its advantage (QVPO, arXiv 2405.16173). The metrics `ess`
    and `weight_kl` are those of the weights among which it was the best.

    Examples:
        >>> print(best(q)(example, two, key).action)
        [[0. 0.]]
    """
    critic("q", q)

    def transform(example: Any, match: Match, key: Key) -> Match:
        require_clean("best", match)
        size = match.action.shape[0]
        if size < 2:
            raise ValueError("best needs at least two candidates: put candidates(policy, n) before it.")
        value = values(q, example, match)
        # argmax takes nan for the largest.
        index = jnp.argmax(jnp.where((match.weight == 0) & jnp.isnan(value), -jnp.inf, value))
        kept = match.over(match.action[index][None], size * match.weight[index][None], 1)
        return dataclasses.replace(kept, report={**match.report, **compared(match)})

    return transform


def jitter(std: Number, *, bound: float | None = None) -> Transform:
    """Add N(0, std^2) to every action, clipped to [-bound, bound] when a bound is given.

    Examples:
        >>> moved = jitter(10.0, bound=0.5)(example, two, key).action
        >>> print(moved.shape, float(jnp.abs(moved).max()))
        (2, 2) 0.5
    """
    non_negative("std", std)
    if bound is not None:
        positive("bound", bound)

    def transform(example: Any, match: Match, key: Key) -> Match:
        require_clean("jitter", match)
        action = match.action + std * jax.random.normal(key, match.action.shape, match.action.dtype)
        action = action if bound is None else jnp.clip(action, -bound, bound)
        return match.over(action, match.weight, match.candidates)

    return transform


def gradient_ascent(
    value: Callable[[Float[Array, "*batch a"]], Scalar],
    action: Float[Array, "*batch a"],
    *,
    steps: int,
    rate: Number,
    bound: float = 1.0,
    eps: float = 1e-5,
    max_grad_norm: Number | None = None,
    limit: Callable[[Float[Array, "*batch a"]], Float[Array, "*batch a"]] | None = None,
    plain: bool = False,
    highest: bool = False,
) -> Float[Array, "*batch a"]:
    """Projected Adam ascent of `value` from `action`: a <- clip(a + rate m / (sqrt(v) + eps), -bound, bound).

    A fresh Adam state (betas 0.9, 0.999, bias-corrected), so the scale of `value` hardly matters and each
    coordinate moves at most about steps * rate. With `max_grad_norm` each step's gradients of the whole batch
    (under the axis "batch", as in `batched`), taken as one vector, are scaled down to that norm before. Several
    actions may climb one value, such as their mean Q; `limit` then maps their gradients, to bound them by groups.
    `plain` steps are of the gradient itself, a <- clip(a + rate g); with `highest` the point of highest value on the
    way is returned, the first one among them. Source: DIPO (arXiv 2305.13122), code; the last two PA-RL (2412.06685).

    Examples:
        >>> value = lambda action: -jnp.sum((action - 0.3) ** 2)
        >>> print(gradient_ascent(value, jnp.array([0.0, 1.0]), steps=1, rate=0.1))
        [0.1 0.9]
    """
    integer("steps", steps, 0)
    positive("rate", rate)
    positive("bound", bound)
    positive("eps", eps)
    if max_grad_norm is not None:
        positive("max_grad_norm", max_grad_norm)

    boolean("plain", plain)
    boolean("highest", highest)

    def step(carry, index):
        action, first, second, best, most = carry
        found, gradient = jax.value_and_grad(lambda action: returned("value", value(action)))(action)
        best, most = jnp.where(found > most, action, best), jnp.maximum(found, most)
        if max_grad_norm is not None:
            # The whole batch's gradients as one vector, as an optimiser of all its actions would clip them.
            norm = jnp.sqrt(batch_sum(jnp.sum(gradient**2)))
            gradient = gradient * (max_grad_norm / jnp.maximum(norm, max_grad_norm))
        if limit is not None:
            gradient = returned("limit", limit(gradient), action.shape)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        # The averages begin at 0; this is what brings their first values up.
        corrected = first / (1 - 0.9 ** (index + 1)), second / (1 - 0.999 ** (index + 1))
        direction = gradient if plain else corrected[0] / (jnp.sqrt(corrected[1]) + eps)
        return (jnp.clip(action + rate * direction, -bound, bound), first, second, best, most), None

    zeros, start = jnp.zeros_like(action), (action, jnp.asarray(-jnp.inf, action.dtype))
    numbers = jnp.arange(steps, dtype=action.dtype)
    (action, _, _, best, most), _ = jax.lax.scan(step, (action, zeros, zeros, *start), numbers)
    return jnp.where(value(action) > most, action, best) if highest else action


def ascend(
    q: Critic,
    *,
    steps: int = 20,
    rate: Number = 0.03,
    bound: float = 1.0,
    max_grad_norm: Number | None = None,
) -> Transform:
    """Move every action up the gradient of Q (see `gradient_ascent`): the target actions of DIPO.

    Examples:
        >>> print(ascend(q, steps=2, rate=0.1)(example, two, key).action)
        [[0.  0. ]
         [0.8 0. ]]
    """
    critic("q", q)
    integer("steps", steps, 0)
    positive("rate", rate)
    positive("bound", bound)
    if max_grad_norm is not None:
        positive("max_grad_norm", max_grad_norm)

    def transform(example: Any, match: Match, key: Key) -> Match:
        require_clean("ascend", match)

        def move(action):
            return gradient_ascent(
                lambda action: returned("q", q(example.obs, action)),
                action,
                steps=steps,
                rate=rate,
                bound=bound,
                max_grad_norm=max_grad_norm,
            )

        return match.over(jax.vmap(move)(match.action), match.weight, match.candidates)

    return transform
