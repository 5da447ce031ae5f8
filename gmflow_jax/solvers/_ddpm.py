"""Ancestral sampling (DDPM) on the flow schedule."""

import jax.numpy as jnp

from gmflow_jax._safe import safe_sqrt
from gmflow_jax.flow._path import reverse_coefficients
from gmflow_jax.solvers._base import Solver, data_mean, step_arguments, step_noise


def ddpm(variance: str = "small") -> Solver:
    """Ancestral sampling from the mean prediction (Ho et al. 2020, paper section A.5); one call a step.

    Args:
      variance: 'small' adds the variance of p(x_s | x_t, x_0): exact for data of zero variance, and
        GM-SDE with K = 1, std -> 0. 'large' is the variance for standard normal data, GM-SDE with
        K = 1 and std 1 / sqrt(alpha^2 + sigma^2); it adds noise in the last step too.
    """
    if variance not in ("small", "large"):
        raise ValueError(f"variance must be 'small' or 'large', but {variance!r} was given.")

    def step(key, denoise, x_t, t, s, state):
        x_t, x_0, t, s, state = step_arguments(x_t, data_mean(denoise(x_t, t)), t, s, state)
        c1, c2, c3 = reverse_coefficients(t, s)
        std = safe_sqrt(c3)
        if variance == "large":
            beta = c2 / (1 - s)
            ratio = ((1 - s) ** 2 + s**2) / ((1 - t) ** 2 + t**2)
            std = t * jnp.sqrt(beta * ratio)
        return c1 * x_t + c2 * x_0 + std * step_noise(key, x_t), state

    return Solver(lambda denoise, x_init: (), step)
