"""The Euler method on the mean velocity."""

from gmflow_jax.solvers._base import Solver, data_mean, step_arguments
from gmflow_jax.solvers._step import make_solver


def euler() -> Solver:
    """Make an Euler solver of dx/dt = E[u | x_t]: order 1, one network call per step.

    It is exact if the mean velocity is constant along the path. It equals DDIM with eta = 0, and GM-ODE of
    order 1 with one sub-step.
    """

    def step(key, denoise, x_t, t, s, state):
        del key
        x_t, x_0, t, s, state = step_arguments(x_t, data_mean(denoise, x_t, t), t, s, state)
        return x_0 + s / t * (x_t - x_0), state

    return make_solver(lambda denoise, x_init: (), step)
