"""Samplers: any callable `sample(field, obs, key) -> action` for one example; `vmap` for a batch, or `solve`.

The examples begin with these names:

    >>> import dpolicy as dp
    >>> import jax
    >>> import jax.numpy as jnp
    >>> from dpolicy.samplers import *
    >>> jnp.set_printoptions(precision=3, suppress=True)
    >>> key, obs, goal = jax.random.key(0), jnp.array([0.5]), jnp.array([0.5, -0.5])
    >>> q = lambda obs, action: -jnp.sum(action**2)
    >>> shape = {"schedule": dp.Trigonometric(), "action_size": 2}
    >>> point = dp.FunctionField(lambda x, t, obs: goal, prediction="data", **shape)
    >>> normal = dp.FunctionField(lambda x, t, obs: 0 * x, prediction="velocity", **shape)
"""

from dpolicy.samplers._best_of import BestOf as BestOf
from dpolicy.samplers._best_of import Sampler as Sampler
from dpolicy.samplers._best_of import best_of as best_of
from dpolicy.samplers._best_of import select as select
from dpolicy.samplers._consistency import Consistency as Consistency
from dpolicy.samplers._consistency import consistency as consistency
from dpolicy.samplers._coupled import Coupled as Coupled
from dpolicy.samplers._coupled import action_of as action_of
from dpolicy.samplers._coupled import coupled as coupled
from dpolicy.samplers._coupled import tied_mixing as tied_mixing
from dpolicy.samplers._differentiated import differentiated as differentiated
from dpolicy.samplers._divergence import path_divergence as path_divergence
from dpolicy.samplers._divergence import step_divergence as step_divergence
from dpolicy.samplers._grid import Grid as Grid
from dpolicy.samplers._grid import Prior as Prior
from dpolicy.samplers._langevin import PredictorCorrector as PredictorCorrector
from dpolicy.samplers._langevin import Unadjusted as Unadjusted
from dpolicy.samplers._langevin import langevin as langevin
from dpolicy.samplers._langevin import unadjusted_langevin as unadjusted_langevin
from dpolicy.samplers._mean_flow import MeanFlow as MeanFlow
from dpolicy.samplers._mean_flow import mean_flow as mean_flow
from dpolicy.samplers._multistep import Multistep as Multistep
from dpolicy.samplers._multistep import dpm_solver as dpm_solver
from dpolicy.samplers._noise_free import noise_free as noise_free
from dpolicy.samplers._ode import ODE as ODE
from dpolicy.samplers._ode import ode as ode
from dpolicy.samplers._path import Path as Path
from dpolicy.samplers._path import accumulated as accumulated
from dpolicy.samplers._path import controlled_path as controlled_path
from dpolicy.samplers._path import cosine_step_shape as cosine_step_shape
from dpolicy.samplers._path import path_log_ratio as path_log_ratio
from dpolicy.samplers._sde import SDE as SDE
from dpolicy.samplers._sde import sde as sde
from dpolicy.samplers.ancestral import Ancestral as Ancestral
from dpolicy.samplers.ancestral import Coefficients as Coefficients
from dpolicy.samplers.ancestral import ddim as ddim
from dpolicy.samplers.ancestral import ddpm as ddpm
from dpolicy.samplers.batch import solve as solve
from dpolicy.samplers.likelihood import log_likelihood as log_likelihood
from dpolicy.samplers.mmse import log_density_of_errors as log_density_of_errors
from dpolicy.samplers.mmse import mmse_log_likelihood as mmse_log_likelihood
