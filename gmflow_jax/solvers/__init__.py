"""Solvers: GM-ODE, GM-SDE, GM-PC, baselines for plain flow models, and `sample`, which runs them.

Each solver is a pair of pure functions (init, step). `sample` runs one in a `lax.scan`.

The convention is x_t = (1 - t) x_0 + t noise: solvers go from noise at t = 1 to data at t = 0, and with
increasing times some go back. They take a denoiser, which `flow.denoiser` makes from a network that predicts
the velocity u = noise - x_0, or from one of another convention. Whatever the network's convention is, the
times of `sample` are those of this one, such as `flow.time_grid(8)`:

| your code | this library |
|---|---|
| data at t = 1, noise at t = 0, velocity x_0 - noise | `flow.denoiser(net, reversed_time=True)` |
| a network called with times [B], or with 1000 t | `flow.denoiser(net, time_shape="batch", scale=1000)` |
| a prediction of x_0, the noise, the score or v | `flow.denoiser(net, predicts="noise")` |
| a schedule x = alpha x_0 + sigma noise, as DDPM's | `flow.denoiser(net, "noise", schedule=(alpha, sigma))` |
| time steps of such a schedule | t = sigma / (alpha + sigma), and x_t = x / (alpha + sigma) |
| EDM's D(x, sigma) | `flow.denoiser(lambda x, u: D(x, sigma(u)), "x_0", schedule=(jnp.ones_like, sigma))` |
| a condition, with and without it in one network call | `guidance.in_one_batch(denoise, condition, null)` |
| conditions whose batch axis is not the first, such as a cache [layers, B, ...] | its argument `batch_axes` |
| a network that returns more than its prediction | `sample(..., has_aux=True)` |
| a network that needs both times of a step, such as MeanFlow's | a `Solver` of your own; `denoise` is None |
| another time grid for each sample | `sample` with times [num_steps + 1, B] |
| a traced number of steps n | the padded grid `jnp.clip(1 - jnp.arange(most + 1) / n, 0, 1)` |
| data to noise (inversion) | `sample` with `flow.time_grid(n)[::-1]`; `euler`, `heun`, `ab2` or `dpmpp_2m` |
| known pixels, noisy measurements | `guidance.observe(denoise, y, var)` |
| a state that is a pytree | one array [B, D], by `jax.vmap` of `jax.flatten_util.ravel_pytree` |
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
