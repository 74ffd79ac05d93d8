"""What diffrax is asked to solve. Imported where it is first needed: diffrax adds half a second to an import."""

from collections.abc import Callable
from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from dpolicy.fields import AbstractField
from dpolicy.samplers._grid import Number


def integrate(
    vector_field: Callable[[Any, Any], Any],
    y: PyTree[Array],
    times: Float[Array, " n"],
    *,
    rtol: Number,
    atol: Number,
    max_steps: int,
    all_points: bool = False,
) -> PyTree[Array]:
    """Tsit5 with step-size control: dy/dt = vector_field(t, y) from times[0] to times[-1].

    Returns y at the end, or at all `times`, stacked; nan where `max_steps` did not suffice, since nothing may pass an
    unfinished solution on.
    """

    def field(t, y, args):
        return jax.tree.map(lambda new, old: new.astype(old.dtype), vector_field(t, y), y)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        diffrax.Tsit5(),
        t0=times[0],
        t1=times[-1],
        dt0=None,
        y0=y,
        saveat=diffrax.SaveAt(ts=times) if all_points else diffrax.SaveAt(t1=True),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=max_steps,
        throw=False,
    )
    finished = solution.result == diffrax.RESULTS.successful
    points = solution.ys if all_points else jax.tree.map(lambda leaf: leaf[0], solution.ys)
    return jax.tree.map(lambda leaf: jnp.where(finished, leaf, jnp.nan), points)


def _row(rows: Any, index: Any) -> Any:
    """The entry at solver time `index`, a whole number in floating point."""
    return jax.tree.map(lambda leaf: leaf[jnp.round(index).astype(int)], rows)


class Flow(diffrax.AbstractTerm):
    """v dt along `times`, the starts of the steps; the solver's own time counts steps, so that every step is exact."""

    sampler: Any  # the `ODE` whose velocity this is
    field: AbstractField
    obs: Float[Array, "b o"]
    times: Float[Array, " n"]

    def vf(self, t, y, args):
        time = _row(self.times, t)
        return jax.vmap(lambda x, obs: self.sampler.velocity(self.field, x, time, obs))(y, self.obs)

    def contr(self, t0, t1, **kwargs):
        return _row(self.times, t1) - _row(self.times, t0)

    def prod(self, vf, control):
        return vf * control.astype(vf.dtype)


class Drift(diffrax.AbstractTerm):
    """(v - eta score) dt along the rows of an `SDE`."""

    sampler: Any  # the `SDE` whose drift this is
    field: AbstractField
    obs: Float[Array, "b o"]
    rows: Any

    def vf(self, t, y, args):
        row = _row(self.rows, t)
        return jax.vmap(lambda x, obs: self.sampler.drift(self.field, x, row, obs))(y, self.obs)

    def contr(self, t0, t1, **kwargs):
        return _row(self.rows.end, t0) - _row(self.rows.t, t0)

    def prod(self, vf, control):
        return vf * control.astype(vf.dtype)


class Diffusion(diffrax.AbstractTerm):
    """sqrt(2 eta) dw over the rows' increments, drawn beforehand."""

    rows: Any

    def vf(self, t, y, args):
        return _row(self.rows.spread, t)

    def contr(self, t0, t1, **kwargs):
        return _row(self.rows.noise, t0)

    def prod(self, vf, control):
        return vf * control


def advance(term: Any, solver: Any, x: Float[Array, "b a"], first: int, last: int) -> Float[Array, "b a"]:
    """Steps number `first` to `last - 1`: one solve of that many steps of length one."""
    if last == first:
        return x
    solution = diffrax.diffeqsolve(
        term,
        solver,
        t0=float(first),
        t1=float(last),
        dt0=1.0,
        y0=x,
        saveat=diffrax.SaveAt(t1=True),
        max_steps=last - first,
        throw=False,
        adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=last - first),
    )
    return jax.tree.leaves(solution.ys)[0][0]


def solve_ode(sampler: Any, field: AbstractField, obs: Any, x: Float[Array, "b a"]) -> Float[Array, "b a"]:
    """Euler or Heun along the grid of an `ODE`."""
    rows = sampler.rows(field)
    term = Flow(sampler, field, obs, rows.t)
    solver = diffrax.Euler() if sampler.solver == "euler" else diffrax.Heun()
    cut = _cut(sampler)
    x = jax.lax.stop_gradient(advance(term, solver, x, 0, cut)) if cut else x
    x = advance(term, solver, x, cut, sampler.steps - 1)
    # The last step is neither (see `ode`).
    last = jax.tree.map(lambda leaf: leaf[-1], rows)
    return jax.vmap(lambda x, obs: sampler.step(field, x, last, obs))(x, obs)


def solve_sde(
    sampler: Any, field: AbstractField, obs: Any, x: Float[Array, "b a"], rows: Any
) -> Float[Array, "b a"]:
    """Euler-Maruyama along the rows of an `SDE`, whose noise is [steps, b, a]."""
    # The drift has no use for the noise, and would only carry it through the solve.
    drift = Drift(sampler, field, obs, rows._replace(noise=rows.t))
    term = diffrax.MultiTerm(drift, Diffusion(rows))
    cut = _cut(sampler)
    x = jax.lax.stop_gradient(advance(term, diffrax.Euler(), x, 0, cut)) if cut else x
    x = advance(term, diffrax.Euler(), x, cut, sampler.steps - 1)
    # The last step carries no noise, and goes along the prediction (see `sde`).
    last = jax.tree.map(lambda leaf: leaf[-1], rows._replace(noise=rows.spread))
    return jax.vmap(lambda x, obs: sampler.step(field, x, last, obs))(x, obs)


def _cut(sampler: Any) -> int:
    """Number of steps without gradient."""
    return 0 if sampler.truncate is None else sampler.steps - sampler.truncate
