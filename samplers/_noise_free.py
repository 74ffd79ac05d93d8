"""Samplers without the noise that they add on their way."""

import dataclasses
from typing import Any

from dpolicy.samplers._mean_flow import MeanFlow
from dpolicy.samplers._multistep import Multistep
from dpolicy.samplers._ode import ODE
from dpolicy.samplers._sde import SDE
from dpolicy.samplers.ancestral import Ancestral


def noise_free(sampler: Any) -> Any:
    """`sampler` with x_1 as the only random thing.

    - `ddpm`, `ddim`: every step goes to its mean (DIPO's evaluation, arXiv 2305.13122, code).
    - `sde`: eta = 0, the ODE with the same marginals; without its noise the drift of an SDE would shrink them.
    - `ode`, `dpm_solver`, `mean_flow`: as they are.

    Raises:
        ValueError: For another sampler (Langevin's corrections are nothing without their noise).

    Examples:
        >>> print(noise_free(sde(eta=1.0)).eta)
        0.0
    """
    if isinstance(sampler, Ancestral):
        return dataclasses.replace(sampler, noise_bound=0.0)
    if isinstance(sampler, SDE):
        return dataclasses.replace(sampler, eta=0.0)
    if isinstance(sampler, ODE | MeanFlow | Multistep):
        return sampler
    raise ValueError(
        f"a sampler without noise must be made of ode, dpm_solver, mean_flow, sde, ddpm or ddim, got {sampler!r}."
    )
