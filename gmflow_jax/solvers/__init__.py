"""Solvers: GM-ODE, GM-SDE, GM-PC, baselines for plain flow models, and `sample`, which runs them.

Each solver is a pair of pure functions (init, step). `sample` runs one in a `lax.scan`.

The convention is x_t = (1 - t) x_0 + t noise: solvers go from noise at t = 1 to data at t = 0, and with
increasing times some go back. They take a denoiser, which `flow.denoiser` makes from a network that predicts
the velocity u = noise - x_0, or from one of another convention.
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
