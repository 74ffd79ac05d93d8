"""Samplers whose gradient is held in check on its way back through the chain."""

import dataclasses
from typing import Any

from dpolicy import _checks
from dpolicy.samplers._chain import AbstractChain, Control, check_truncate
from dpolicy.samplers._grid import Number
from dpolicy.samplers._langevin import PredictorCorrector
from dpolicy.samplers._ode import ODE


def differentiated(
    sampler: Any, *, truncate: int | None = None, max_norm: Number | None = None, finite: bool = False
) -> Any:
    """`sampler` with the same actions and another gradient.

    The cotangent g of x passes back through every step, g <- J^T g, and each step adds its share of the parameters'
    gradient on the way. For the exact denoiser of N(m, S^2) the product of the J down to step k is
    alpha_k S^2 / (alpha_k^2 S^2 + sigma_k^2), whatever the number of steps: what reaches the noise vanishes where the
    policy is sharp, so that the last steps alone are a good deal of the whole (for S = .1 the last quarter .88). A
    field that does not denoise yet has a product of 1/alpha_1 where its prediction is not clipped: 12 for DACER's
    schedule, 119 for the cosine one.

    The body of the chain runs again in the backward pass (`jax.checkpoint`), whatever is set here.

    Args:
        sampler: Of `ode` (fixed steps), `dpm_solver`, `sde`, `ddpm`, `ddim`, `langevin` or `unadjusted_langevin`.
        truncate: Only that many steps, those nearest the action, carry gradient; None leaves it as it was.
        max_norm: Bound on the norm of g after every step, for one action; None for none. (That of the whole batch's
            parameter gradient is the optimiser's: `max_grad_norm`.)
        finite: Whether entries of g that are not finite are zeroed. What is not finite within a step still reaches the
            parameters; `optax.zero_nans` before the optimiser stops that.

    Raises:
        ValueError: For another sampler, and for arguments out of range.

    Examples:
        >>> gradient = lambda sampler: jax.grad(lambda x: 3 * jnp.sum(sampler(normal, obs, key, start=x)))(jnp.ones(2))
        >>> print(gradient(ode(steps=2)), gradient(differentiated(ode(steps=2), max_norm=1.0)))
        [2.121 2.121] [0.5 0.5]
    """
    if not isinstance(sampler, AbstractChain | ODE) or getattr(sampler, "solver", "") == "tsit5":
        allowed = "ode of fixed steps, dpm_solver, sde, ddpm, ddim, langevin or unadjusted_langevin"
        raise ValueError(
            f"a sampler whose gradient is controlled must be made of {allowed}, got {sampler!r}."
        )
    check_truncate(truncate, sampler.steps)
    if max_norm is not None:
        _checks.positive("max_norm", max_norm)
    _checks.boolean("finite", finite)
    control = Control(max_norm, finite) if finite or max_norm is not None else None
    changes: dict[str, Any] = {"control": control}
    if truncate is not None and isinstance(sampler, PredictorCorrector):
        predictor = dataclasses.replace(sampler.predictor, truncate=truncate)
        return dataclasses.replace(sampler, predictor=predictor, **changes)
    return dataclasses.replace(sampler, **changes, **({} if truncate is None else {"truncate": truncate}))
