"""Heun's method on the mean velocity."""

import jax.numpy as jnp

from gmflow_jax._arguments import promote
from gmflow_jax.solvers._base import Solver, data_mean, step_arguments


def heun() -> Solver:
    """Heun's method for dx/dt = E[u | x_t]: order 2, two network calls a step, no memory.

    Exact where the mean velocity is linear in t along the path. A step to s = 0, where the velocity
    cannot be told from a prediction of x_0, is Euler's and its second call without effect. Source:
    Karras et al. 2022, algorithm 1.
    """

    def step(key, denoise, x_t, t, s, state):
        del key
        x_0 = data_mean(denoise(x_t, t))
        _, _, t, s = promote(x_t, x_0, t, s)
        # A step to s = 0 makes its second call at t instead, so that it cannot give NaN.
        end = jnp.where(s <= 0, t, s)
        x_t, x_0, t, s, tau = step_arguments(x_t, x_0, t, s, end)
        velocity = (x_t - x_0) / t
        euler = x_0 + s / t * (x_t - x_0)
        (x_0,) = promote(data_mean(denoise(euler, end)))
        end_velocity = (euler - x_0) / tau
        x_s = x_t - (t - s) * (0.5 * (velocity + end_velocity))
        return jnp.where(s <= 0, euler, x_s), state

    return Solver(lambda denoise, x_init: (), step)
