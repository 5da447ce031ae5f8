"""Heun's method on the mean velocity."""

import jax.numpy as jnp

from gmflow_jax._arguments import append_axes, expand_time, promote
from gmflow_jax.solvers._base import Solver, data_mean


def heun() -> Solver:
    """Heun's method for dx/dt = E[u | x_t]: order 2, two network calls a step, no memory.

    Exact where the mean velocity is linear in t along the path. A step to s = 0, where the velocity
    cannot be told from a prediction of x_0, is Euler's and its second call without effect. Source:
    Karras et al. 2022, algorithm 1.
    """

    def step(key, denoise, x_t, t, s, state):
        del key
        x_0 = data_mean(denoise(x_t, t))
        x_t, x_0, t, s = promote(x_t, x_0, t, s)

        def per_channel(value):
            return append_axes(expand_time(value, x_t.shape[:-1]), 1)

        velocity = (x_t - x_0) / per_channel(t)
        euler = x_0 + per_channel(s / t) * (x_t - x_0)
        # Where s = 0 the second call is made at t instead, so that it cannot give NaN.
        last = s <= 0
        tau = jnp.where(last, t, s)
        (x_0,) = promote(data_mean(denoise(euler, tau)))
        end_velocity = (euler - x_0) / per_channel(tau)
        average = 0.5 * (velocity + end_velocity)
        x_s = x_t - per_channel(t - s) * average
        return jnp.where(per_channel(last), euler, x_s), state

    return Solver(lambda denoise, x_init: (), step)
