"""Solvers: GM-ODE, GM-SDE, baselines for plain flow models, and the driver `sample`.

Each is an (init, step) pair of pure functions; `sample` runs one as a `lax.scan`. Needs jax alone.
"""

from gmflow_jax.solvers._ab2 import ab2
from gmflow_jax.solvers._base import Draws, Solver
from gmflow_jax.solvers._by_name import NAMES, by_name
from gmflow_jax.solvers._ddpm import ddpm
from gmflow_jax.solvers._dpmpp import dpmpp_2m, dpmpp_2m_sde
from gmflow_jax.solvers._euler import euler
from gmflow_jax.solvers._gm import gm_ode, gm_sde
from gmflow_jax.solvers._gm_pc import gm_pc
from gmflow_jax.solvers._heun import heun
from gmflow_jax.solvers._sample import sample
from gmflow_jax.solvers._second_order import Memory, second_order
from gmflow_jax.solvers._unipc import unipc

__all__ = [
    "NAMES", "Draws", "Memory", "Solver", "ab2", "by_name", "ddpm", "dpmpp_2m", "dpmpp_2m_sde",
    "euler", "gm_ode", "gm_pc", "gm_sde", "heun", "sample", "second_order", "unipc",
]
