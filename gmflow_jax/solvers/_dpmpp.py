"""DPM-Solver++ 2M for the ODE and the SDE, on the flow schedule."""

import jax.numpy as jnp

from gmflow_jax._safe import safe_sqrt
from gmflow_jax.flow._transition import reverse_coefficients
from gmflow_jax.solvers._base import Solver, data_mean, per_sample, step_arguments, step_noise
from gmflow_jax.solvers._log_snr import step_length
from gmflow_jax.solvers._step import STOCHASTIC, make_solver


def dpmpp_2m() -> Solver:
    """Make the DPM-Solver++ 2M solver, midpoint variant: order 2, one network call per step.

    It extrapolates the mean of x_0 to the middle of the step, linearly in log-SNR, and makes an Euler step
    with the result. The first step and a step to s = 0 are Euler steps. The solver is exact if the
    prediction of x_0 is constant along the path.

    Source:
      Lu et al. 2022 (arXiv 2211.01095), algorithm 2.
    """

    def step(key, denoise, x_t, t, s, state):
        del key
        x_0, x_t, t, s, state = _midpoint(denoise, x_t, t, s, state)
        return x_0 + s / t * (x_t - x_0), state

    return make_solver(_empty, step)


def dpmpp_2m_sde() -> Solver:
    """Make the SDE-DPM-Solver++ 2M solver, midpoint variant: one network call per step.

    It combines the extrapolation of `dpmpp_2m` with an ancestral step (GMFlow, eq. 9). The first step and a
    step to s = 0 are those of `ddpm('small')`. The solver is exact in distribution for data of zero
    variance.

    Source:
      Lu et al. 2022 (arXiv 2211.01095).
    """

    def step(key, denoise, x_t, t, s, state):
        x_0, x_t, t, s, state = _midpoint(denoise, x_t, t, s, state)
        c1, c2, c3 = reverse_coefficients(t, s)
        return c1 * x_t + c2 * x_0 + safe_sqrt(c3) * step_noise(key, x_t), state

    return make_solver(_empty, step, STOCHASTIC)


def _empty(denoise, x_init):
    return jnp.zeros_like(x_init), per_sample(jnp.inf, x_init)


def _midpoint(denoise, x_t, t, s, state):
    """Extrapolate the mean of x_0 to the middle of the step.

    Returns:
      The extrapolated mean; x_t, t and s as from `step_arguments`; the next state.
    """
    x_t, x_0, t, s, (x_0_prev, h_prev) = step_arguments(x_t, data_mean(denoise, x_t, t), t, s, state)
    h, ratio = step_length(t, s, h_prev)
    middle = x_0 + 0.5 * ratio * (x_0 - x_0_prev)
    return middle, x_t, t, s, (x_0, per_sample(h, x_t))
