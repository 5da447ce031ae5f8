"""Ancestral sampling (DDPM) on the flow schedule."""

import jax.numpy as jnp

from gmflow_jax._safe import safe_sqrt
from gmflow_jax.flow._transition import reverse_coefficients
from gmflow_jax.solvers._base import Solver, data_mean, step_arguments, step_noise
from gmflow_jax.solvers._step import STOCHASTIC, make_solver


def ddpm(variance: str = "small") -> Solver:
    """Make an ancestral sampler (DDPM) from the mean prediction of x_0: one network call per step.

    Args:
      variance: 'small' uses the variance of p(x_s | x_t, x_0). It is exact for data of zero variance, and the
        limit of GM-SDE with K = 1 for std -> 0. 'large' uses the variance for standard normal data, which is
        GM-SDE with K = 1 and std 1 / sqrt(alpha^2 + sigma^2); it adds noise in the last step, too.

    Returns:
      The solver.

    Raises:
      ValueError: if variance has another value.

    Source:
      Ho et al. 2020 (arXiv 2006.11239); GMFlow (arXiv 2504.05304), section A.5.
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance must be 'small' or 'large', but {variance!r} was given.")

    def step(key, denoise, x_t, t, s, state):
        x_t, x_0, t, s, state = step_arguments(x_t, data_mean(denoise, x_t, t), t, s, state)
        c1, c2, c3 = reverse_coefficients(t, s)
        std = safe_sqrt(c3)
        if variance == "large":
            beta = c2 / (1 - s)
            ratio = ((1 - s) ** 2 + s**2) / ((1 - t) ** 2 + t**2)
            std = t * jnp.sqrt(beta * ratio)
        return c1 * x_t + c2 * x_0 + std * step_noise(key, x_t), state

    return make_solver(lambda denoise, x_init: (), step, STOCHASTIC)
