"""Log signal-to-noise ratio: the time variable in which DPM-Solver++ and UniPC extrapolate predictions."""

import jax
import jax.numpy as jnp

from gmflow_jax._meshes import broadcast_like
from gmflow_jax._safe import safe_divide, safe_log

# At t = 1 the log-SNR is -inf, so the first step would have infinite length and the second step could not
# extrapolate. The extrapolation weights, and nothing else, therefore use t = 1 - 1e-4 in place of t = 1.
_MIN_ALPHA = 1e-4


def log_snr(t: jax.Array) -> jax.Array:
    """Return log((1 - t) / t), with t clipped at 1 - 1e-4. At t = 0 it is +inf with gradient 0."""
    return -safe_log(jnp.minimum(t, 1 - _MIN_ALPHA) / jnp.maximum(1 - t, _MIN_ALPHA))


def step_length(t: jax.Array, s: jax.Array, h_prev: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Compute the length h of a step in log-SNR and its ratio to the previous step's.

    The ratio is 0, which makes the step one of first order, if there is no usable previous step (h_prev
    infinite, or 0 because of the clip) and if s = 0, where h is infinite.

    Args:
      t: start of the step.
      s: end of the step.
      h_prev: length of the previous step.

    Returns:
      h and h / h_prev, both of the shape of h_prev.
    """
    h = broadcast_like(log_snr(s) - log_snr(t), h_prev)
    return h, safe_divide(jnp.where(jnp.isinf(h), 0.0, h), h_prev)
