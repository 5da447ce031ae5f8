"""UniPC-2 on the flow schedule: a predictor of order 2 with a corrector, which makes it order 3."""

import jax
import jax.numpy as jnp

from gmflow_jax.solvers._base import Solver, data_mean, per_sample, step_arguments
from gmflow_jax.solvers._log_snr import step_length
from gmflow_jax.solvers._step import make_solver


def unipc() -> Solver:
    """Make the UniPC-2 solver for predictions of x_0, B(h) = e^h - 1, with one network call per step.

    The predictor is `dpmpp_2m`, of order 2. With its corrector the solver reaches order 3. The first step and
    a step to s = 0 are Euler steps; the latter limits the order to 2 for time grids that end at 0.

    The network's call at the predicted point also corrects that point, and the next step starts from the
    corrected point. The states that `sample` returns are predicted points, so the last one is not corrected.
    The solver is exact if the prediction of x_0 is constant along the path.

    Source:
      Zhao et al. 2023 (arXiv 2302.04867).
    """

    def init(denoise, x_init):
        # The last two define the correction at the next call: weight * (x_0 - x_0_prev) + shift.
        h_prev = per_sample(jnp.inf, x_init)
        return jnp.zeros_like(x_init), h_prev, jnp.zeros_like(h_prev), jnp.zeros_like(x_init)

    def step(key, denoise, x_t, t, s, state):
        del key
        x_t, x_0, t, s, state = step_arguments(x_t, data_mean(denoise, x_t, t), t, s, state)
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

    why = "its corrector multiplies changes of the predicted x_0 by s / t, which is large for steps to noise"
    return make_solver(init, step, why)


def _corrector_weights(h: jax.Array, h_prev: jax.Array, ratio: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solve the paper's two equations for the corrector's weights.

    Returns:
      The weights of the change of x_0 over the previous step and of the change over this step. After a
      first-order step (ratio 0) the corrector is of order 1, too.
    """
    second = ratio > 0
    h, h_prev = jnp.where(second, h, 1.0), jnp.where(second, h_prev, 1.0)
    total = -1 / jnp.expm1(-h) - 1 / h
    old = (2 * total - 1) / (h + h_prev)
    return jnp.where(second, old, 0.0), jnp.where(second, total - old, 0.5)
