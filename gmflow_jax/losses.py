"""Training losses: unreduced [*batch], in nats, summed over channels.

log_weights are taken as they are and never renormalised, so a network must end in log_softmax.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gmflow_jax._arguments import append_axes, check_same_shape, check_times_ordered, expand_time, promote
from gmflow_jax._safe import safe_divide
from gmflow_jax.flow._path import reverse_coefficients
from gmflow_jax.flow._spectrum import spectral_coefficients
from gmflow_jax.gm._moments import log_density
from gmflow_jax.gm._transport import to_standard_normal
from gmflow_jax.gm._types import Gaussian, GaussianMixture, promote_mixture

__all__ = ["flow_matching_loss", "mixture_nll", "spectral_loss", "transition_loss"]

_LOG_2PI = math.log(2 * math.pi)
# The variance of x_s given x_t vanishes at t = 0. This floor keeps the loss and its gradient finite
# there and is inactive from t = 1e-12 on.
_MIN_VARIANCE = 1e-30


def mixture_nll(q: GaussianMixture | Gaussian, x: jax.Array) -> jax.Array:
    """Negative log-likelihood -log q(x) (eq. 5-6): the KL loss up to the data's entropy.

    Args:
      q: mixture over [*batch, D], log-weights normalised.
      x: [*batch, D].

    Returns:
      [*batch], nats, D/2 log 2 pi included.
    """
    q, x = promote_mixture(q, x)
    if x.ndim != q.means.ndim - 1:
        raise ValueError(
            f"x has shape {x.shape}, but the mixture's means have {q.means.shape}: x needs the same "
            "axes without the component axis."
        )
    return -log_density(q, x)


def transition_loss(
    q_velocity: GaussianMixture | Gaussian, x_t: jax.Array, x_s: jax.Array, t: ArrayLike, s: ArrayLike
) -> jax.Array:
    """Negative log-likelihood of a less noisy state, -log q(x_s | x_t) (eq. 9, algorithm 1).

    With s = 0 this is the likelihood of x_0. Evaluated in the frame x_s - x_t + e x_t, in which
    nothing large cancels at small t: going through `flow.reverse_transition` loses half the
    gradient's digits for t <= 0.01 in float32.

    Args:
      q_velocity: the network's mixture over the velocity at (x_t, t), [B, ..., K, D].
      x_t, x_s: [B, ..., D], x_t drawn from x_s by `flow.forward_transition`.
      t, s: scalars or [B], s < t.

    Returns:
      [B, ...], nats, D/2 log 2 pi included.
    """
    check_times_ordered(t, s)
    q, x_t, x_s, t, s = promote_mixture(q_velocity, x_t, x_s, t, s)
    check_same_shape(x_t=x_t, x_s=x_s)
    batch = x_t.shape[:-1]
    t, s = expand_time(t, batch), expand_time(s, batch, "s")
    c1, c2, c3 = reverse_coefficients(t, s)
    e = safe_divide(c2 * s - c1 * (t - s), 1 - s)  # 1 - c1 - c2 without cancelling
    y = (x_s - x_t) + append_axes(e, 1) * x_t
    means = -append_axes(c2 * t, 2) * q.means
    var = c3 + jnp.square(c2 * t) * jnp.exp(2 * q.log_std)
    log_std = 0.5 * jnp.log(jnp.maximum(var, _MIN_VARIANCE))
    return mixture_nll(GaussianMixture(means, q.log_weights, log_std), y)


def flow_matching_loss(velocity: jax.Array, x_0: jax.Array, noise: jax.Array) -> jax.Array:
    """The L2 baseline |u - velocity|^2 / 2 + D/2 log 2 pi with u = noise - x_0; all [*batch, D].

    The constant makes it equal to `mixture_nll` for K = 1 and log_std = 0.
    """
    velocity, x_0, noise = promote(velocity, x_0, noise)
    check_same_shape(velocity=velocity, x_0=x_0, noise=noise)
    error = jnp.square(noise - x_0 - velocity)
    return 0.5 * jnp.sum(error, axis=-1) + 0.5 * _LOG_2PI * velocity.shape[-1]


def spectral_loss(log_power: jax.Array, q: GaussianMixture, x_0: jax.Array) -> jax.Array:
    """What a power spectrum adds to the negative log-likelihood -log q(x_0) (eq. 20).

    With Z the spectral coefficients of the normals that q's transport gives x_0, the sum over channels
    of (Z^2 (exp(-L) - 1) + L) / 2. Its gradient enters log_power alone; q and x_0 are constants.

    Args:
      log_power: L, [B, H, W, D] in the order of an FFT.
      q: mixture over x_0, [B, H, W, K, D].
      x_0: [B, H, W, D].

    Returns:
      [B, H, W] over frequencies, nats; 0 for log_power = 0. Only its sum over an image is a
      likelihood.
    """
    log_power, q, x_0 = promote(log_power, q, x_0)
    check_same_shape(log_power=log_power, x_0=x_0)
    z = to_standard_normal(*jax.lax.stop_gradient((q, x_0)))
    power = jnp.square(spectral_coefficients(z))
    return 0.5 * jnp.sum(power * jnp.expm1(-log_power) + log_power, axis=-1)
