"""Log signal-to-noise ratio: the time in which DPM-Solver++ and UniPC look back at earlier predictions."""

import jax
import jax.numpy as jnp

from gmflow_jax._safe import safe_divide, safe_log

# At t = 1 the log-SNR is -inf: a first step of infinite length would leave the second step nothing to
# extrapolate from. So look-back weights, and they alone, see t = 1 as t = 1 - 1e-4.
_MIN_ALPHA = 1e-4


def log_snr(t: jax.Array) -> jax.Array:
    """log((1 - t) / t) with t clipped at 1 - 1e-4; +inf at t = 0, with gradient 0."""
    return -safe_log(jnp.minimum(t, 1 - _MIN_ALPHA) / jnp.maximum(1 - t, _MIN_ALPHA))


def step_length(t: jax.Array, s: jax.Array, h_prev: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Length h of the step from t to s in log-SNR, and h / h_prev, both of h_prev's shape.

    The ratio is 0, and so the step of first order, where there is no usable previous step (none, or
    within the clip) and where s = 0, which is infinitely far.
    """
    h = jnp.broadcast_to(log_snr(s) - log_snr(t), h_prev.shape)
    return h, safe_divide(jnp.where(jnp.isinf(h), 0.0, h), h_prev)
