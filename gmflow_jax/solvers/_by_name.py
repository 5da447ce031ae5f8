"""Solvers by name, for programs and configurations."""

import functools
from collections.abc import Callable

import jax

from gmflow_jax.gm._types import Gaussian
from gmflow_jax.solvers._ab2 import ab2
from gmflow_jax.solvers._base import Solver
from gmflow_jax.solvers._ddpm import ddpm
from gmflow_jax.solvers._dpmpp import dpmpp_2m, dpmpp_2m_sde
from gmflow_jax.solvers._euler import euler
from gmflow_jax.solvers._gm import gm_ode, gm_sde
from gmflow_jax.solvers._gm_pc import gm_pc
from gmflow_jax.solvers._heun import heun
from gmflow_jax.solvers._unipc import unipc

_WITH_OPTIONS = ("gm_pc", "gm_ode", "gm_sde")
_PLAIN = {
    "euler": euler,
    "ab2": ab2,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
    "unipc": unipc,
    "ddpm": ddpm,
    "ddpm_large": functools.partial(ddpm, "large"),
    "dpmpp_2m_sde": dpmpp_2m_sde,
}
NAMES = (*_WITH_OPTIONS, *_PLAIN)


def by_name(
    name: str,
    order: int = 2,
    num_substeps: int = 16,
    shift: float = 1.0,
    *,
    integrator: str | None = None,
    spectrum: Callable[[Gaussian], jax.Array] | None = None,
) -> Solver:
    """Make the solver with a given name. Options that it does not have are ignored.

    Args:
      name: one of `NAMES`.
      order: of gm_ode and gm_sde.
      num_substeps: of gm_ode and gm_pc.
      shift: of gm_ode and gm_pc.
      integrator: of gm_ode and gm_pc; None means the solver's default.
      spectrum: of gm_sde.

    Returns:
      The solver.

    Raises:
      ValueError: if the name is unknown, or a spectrum is given for a solver other than gm_sde.
    """
    if name not in NAMES:
        raise ValueError(f"There is no solver {name!r}. Choose one of {', '.join(NAMES)}.")
    if spectrum is not None and name != "gm_sde":
        raise ValueError(
            f"Only gm_sde draws with a spectrum, {name} does not. Use gm_sde, or leave the spectrum out."
        )
    if name == "gm_ode":
        ode = gm_ode if integrator is None else functools.partial(gm_ode, integrator=integrator)
        return ode(order, num_substeps, shift)
    if name == "gm_pc":
        pc = gm_pc if integrator is None else functools.partial(gm_pc, integrator=integrator)
        return pc(num_substeps, shift)
    if name == "gm_sde":
        return gm_sde(order, spectrum)
    return _PLAIN[name]()
