"""The two-step Adams-Bashforth method on the mean velocity."""

import jax.numpy as jnp

from gmflow_jax.solvers._base import Solver, data_mean, per_sample, step_arguments
from gmflow_jax.solvers._step import make_solver


def ab2() -> Solver:
    """Make a two-step Adams-Bashforth solver of dx/dt = E[u | x_t]: order 2, one network call per step.

    Step sizes may vary. The first step is an Euler step. The later steps are exact if the mean velocity is
    linear in t along the path.

    Source:
      Hairer, Norsett and Wanner, Solving Ordinary Differential Equations I, section III.5.
    """

    def init(denoise, x_init):
        # With an infinite previous step size the previous velocity has weight 0: an Euler step.
        return jnp.zeros_like(x_init), per_sample(jnp.inf, x_init)

    def step(key, denoise, x_t, t, s, state):
        del key
        x_t, x_0, t, s, state = step_arguments(x_t, data_mean(denoise, x_t, t), t, s, state)
        velocity_prev, h_prev = state
        h = t - s
        velocity = (x_t - x_0) / t
        x_s = x_t - h * (velocity + 0.5 * h / h_prev * (velocity - velocity_prev))
        return x_s, (velocity, per_sample(h, x_t))

    return make_solver(init, step)
