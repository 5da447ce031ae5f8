"""UniPC of order 2 on the flow schedule."""

import jax
import jax.numpy as jnp

from gmflow_jax.solvers._base import Solver, data_mean, per_sample, step_arguments
from gmflow_jax.solvers._log_snr import step_length


def unipc() -> Solver:
    """UniPC-2 predicting x_0, B(h) = e^h - 1 (Zhao et al. 2023): order 3, one network call a step.

    The predictor is `dpmpp_2m`. The network's call at the predicted point also corrects that point, from
    which the next step starts; so states are predicted ones, and the last of them is not corrected. The
    first step and a step to s = 0 are Euler's. Exact where the prediction of x_0 is constant along the
    path.
    """

    def init(denoise, x_init):
        # The correction due at the next call: weight * (x_0 - x_0_prev) + shift.
        h_prev = per_sample(jnp.inf, x_init)
        return jnp.zeros_like(x_init), h_prev, jnp.zeros_like(h_prev), jnp.zeros_like(x_init)

    def step(key, denoise, x_t, t, s, state):
        del key
        x_t, x_0, t, s, state = step_arguments(x_t, data_mean(denoise(x_t, t)), t, s, state)
        x_0_prev, h_prev, weight, shift = state
        h, ratio = step_length(t, s, h_prev)
        old, new = _corrector_weights(h, h_prev, ratio)
        left = s / t
        x_t = x_t + weight * (x_0 - x_0_prev) + shift
        change = ratio * (x_0 - x_0_prev)
        middle = x_0 + 0.5 * change
        x_s = middle + left * (x_t - middle)
        next_weight, next_shift = (1 - left) * new, (1 - left) * (old - 0.5) * change
        return x_s, (x_0, per_sample(h, x_t), per_sample(next_weight, x_t), next_shift)

    return Solver(init, step)


def _corrector_weights(h: jax.Array, h_prev: jax.Array, ratio: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What the change over the previous step and the change over this one weigh in the corrector.

    The solution of the paper's two equations; a first-order step (ratio 0) has its corrector of order 1.
    """
    second = ratio > 0
    h, h_prev = jnp.where(second, h, 1.0), jnp.where(second, h_prev, 1.0)
    total = -1 / jnp.expm1(-h) - 1 / h
    old = (2 * total - 1) / (h + h_prev)
    return jnp.where(second, old, 0.0), jnp.where(second, total - old, 0.5)
