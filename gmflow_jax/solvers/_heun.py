"""Heun's method on the mean velocity."""

import jax.numpy as jnp

from gmflow_jax._arguments import promote
from gmflow_jax._meshes import where
from gmflow_jax.solvers._base import Solver, data_mean, step_arguments
from gmflow_jax.solvers._step import make_solver


def heun() -> Solver:
    """Make a Heun solver of dx/dt = E[u | x_t]: order 2, two network calls per step.

    It is exact if the mean velocity is linear in t along the path. At s = 0 a prediction of x_0 does not
    determine the velocity: a step to s = 0 is an Euler step, and its second call has no effect.

    Source:
      Karras et al. 2022 (arXiv 2206.00364), algorithm 1.
    """

    def step(key, denoise, x_t, t, s, state):
        del key
        x_0 = data_mean(denoise, x_t, t)
        _, _, t, s = promote(x_t, x_0, t, s)
        # In a step to s = 0 the second call is made at t instead, so that it does not give NaN.
        end = jnp.where(s <= 0, t, s)
        x_t, x_0, t, s, tau = step_arguments(x_t, x_0, t, s, end)
        velocity = (x_t - x_0) / t
        euler = x_0 + s / t * (x_t - x_0)
        x_0 = data_mean(denoise, euler, end)
        end_velocity = (euler - x_0) / tau
        x_s = x_t - (t - s) * (0.5 * (velocity + end_velocity))
        return where(s <= 0, euler, x_s), state

    return make_solver(lambda denoise, x_init: (), step)
