"""The two-step Adams-Bashforth method on the mean velocity."""

import jax.numpy as jnp

from gmflow_jax._arguments import append_axes, expand_time, promote
from gmflow_jax.solvers._base import Solver, data_mean, per_sample


def ab2() -> Solver:
    """Two-step Adams-Bashforth for dx/dt = E[u | x_t]: order 2, one network call a step.

    Variable step sizes. The first step is Euler's; after it, exact where the mean velocity is linear in t
    along the path. Source: Hairer, Norsett, Wanner, Solving ODEs I, III.5.
    """

    def init(denoise, x_init):
        # An infinite previous step gives the old velocity no weight: the first step is Euler's.
        return jnp.zeros_like(x_init), per_sample(jnp.inf, x_init)

    def step(key, denoise, x_t, t, s, state):
        del key
        x_0 = data_mean(denoise(x_t, t))
        x_t, x_0, t, s, (velocity_prev, h_prev) = promote(x_t, x_0, t, s, state)
        step_size = per_sample(t - s, x_t)
        t, h, h_prev = (expand_time(v, x_t.shape[:-1]) for v in (t, step_size, h_prev))
        velocity = (x_t - x_0) / append_axes(t, 1)
        slope = append_axes(0.5 * h / h_prev, 1)
        x_s = x_t - append_axes(h, 1) * (velocity + slope * (velocity - velocity_prev))
        return x_s, (velocity, step_size)

    return Solver(init, step)
