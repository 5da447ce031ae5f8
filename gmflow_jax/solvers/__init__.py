"""Solvers: GM-ODE, GM-SDE, baselines for plain flow models, and the driver `sample`.

Each is an (init, step) pair of pure functions; `sample` runs one as a `lax.scan`. Needs jax alone.
"""

from gmflow_jax.solvers._ab2 import ab2 as ab2
from gmflow_jax.solvers._base import Draws as Draws
from gmflow_jax.solvers._base import Solver as Solver
from gmflow_jax.solvers._by_name import NAMES as NAMES
from gmflow_jax.solvers._by_name import by_name as by_name
from gmflow_jax.solvers._ddpm import ddpm as ddpm
from gmflow_jax.solvers._dpmpp import dpmpp_2m as dpmpp_2m
from gmflow_jax.solvers._dpmpp import dpmpp_2m_sde as dpmpp_2m_sde
from gmflow_jax.solvers._euler import euler as euler
from gmflow_jax.solvers._gm import gm_ode as gm_ode
from gmflow_jax.solvers._gm import gm_sde as gm_sde
from gmflow_jax.solvers._gm_pc import gm_pc as gm_pc
from gmflow_jax.solvers._heun import heun as heun
from gmflow_jax.solvers._sample import sample as sample
from gmflow_jax.solvers._second_order import Memory as Memory
from gmflow_jax.solvers._second_order import second_order as second_order
from gmflow_jax.solvers._unipc import unipc as unipc
