"""Training losses, in nats: summed over channels, not reduced over batch axes.

log_weights are used as they are and never renormalised, so a network must end in log_softmax.
"""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gmflow_jax._arguments import append_axes, check_same_shape, check_times_ordered, expand_time, promote
from gmflow_jax._safe import safe_divide
from gmflow_jax.flow._policy import policy_velocity
from gmflow_jax.flow._spectrum import spectral_coefficients
from gmflow_jax.flow._transition import reverse_coefficients
from gmflow_jax.gm._moments import log_density
from gmflow_jax.gm._transport import to_standard_normal
from gmflow_jax.gm._types import Gaussian, GaussianMixture, promote_mixture

__all__ = ["flow_matching_loss", "mixture_nll", "policy_loss", "spectral_loss", "transition_loss"]

_LOG_2PI = math.log(2 * math.pi)
# Lower bound of the variance of x_s given x_t, which is 0 at t = 0. It keeps the loss and its gradient finite
# there, and has no effect from t = 1e-12 on.
_MIN_VARIANCE = 1e-30


def mixture_nll(q: GaussianMixture | Gaussian, x: jax.Array) -> jax.Array:
    """Compute the negative log-likelihood -log q(x).

    Its expectation is the KL divergence from the data's distribution to q, plus the entropy of the data.

    Args:
      q: mixture over [*batch, D], with normalised log-weights.
      x: data, [*batch, D].

    Returns:
      [*batch], in nats, including the constant D/2 log 2 pi.

    Raises:
      ValueError: if shapes do not fit.

    Source:
      GMFlow (arXiv 2504.05304), eq. 5-6.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from gmflow_jax import gm, losses
      >>> log_weights = jax.nn.log_softmax(jnp.zeros((8, 2)))  # the outputs of a network
      >>> q = gm.GaussianMixture(jnp.zeros((8, 2, 3)), log_weights, jnp.zeros((8,)))
      >>> loss = losses.mixture_nll(q, jnp.zeros((8, 3)))
      >>> loss.shape, round(float(loss.mean()), 3)
      ((8,), 2.757)
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
    """Compute the negative log-likelihood of a less noisy state, -log q(x_s | x_t).

    With s = 0 this is the negative log-likelihood of x_0.

    Args:
      q_velocity: the network's mixture over the velocity at (x_t, t), means [B, ..., K, D].
      x_t: state at t, drawn from x_s by `flow.forward_transition`, [B, ..., D].
      x_s: state at s, [B, ..., D].
      t: the noisier time, a scalar or [B].
      s: the less noisy time, a scalar or [B].

    Returns:
      [B, ...], in nats, including the constant D/2 log 2 pi.

    Raises:
      ValueError: if shapes do not fit or s is not less than t.

    Source:
      GMFlow (arXiv 2504.05304), eq. 9 and algorithm 1.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from gmflow_jax import flow, gm, losses
      >>> t, s = jnp.array([0.8, 0.4]), jnp.array([0.4, 0.2])  # s = t / 2, one time per sample
      >>> x_0, noise_s, noise_t = jax.random.normal(jax.random.key(0), (3, 2, 4))
      >>> x_s = flow.interpolate(x_0, noise_s, s)
      >>> x_t = flow.forward_transition(x_s, noise_t, s, t)
      >>> q = gm.GaussianMixture(jnp.zeros((2, 1, 4)), jnp.zeros((2, 1)), jnp.zeros(2))  # of a network
      >>> losses.transition_loss(q, x_t, x_s, t, s).shape
      (2,)
    """
    check_times_ordered(t, s)
    q, x_t, x_s, t, s = promote_mixture(q_velocity, x_t, x_s, t, s)
    check_same_shape(x_t=x_t, x_s=x_s)
    batch = x_t.shape[:-1]
    t, s = expand_time(t, batch), expand_time(s, batch, "s")
    c1, c2, c3 = reverse_coefficients(t, s)
    # Evaluate the density of y = x_s - (c1 + c2) x_t, in which nothing large cancels at small t. In float32,
    # the gradient through `flow.reverse_transition` loses half of its digits for t <= 0.01.
    e = safe_divide(c2 * s - c1 * (t - s), 1 - s)  # 1 - c1 - c2, in a form that does not cancel
    y = (x_s - x_t) + append_axes(e, 1) * x_t
    means = -append_axes(c2 * t, 2) * q.means
    var = c3 + jnp.square(c2 * t) * jnp.exp(2 * q.log_std)
    log_std = 0.5 * jnp.log(jnp.maximum(var, _MIN_VARIANCE))
    return mixture_nll(GaussianMixture(means, q.log_weights, log_std), y)


def flow_matching_loss(velocity: jax.Array, x_0: jax.Array, noise: jax.Array) -> jax.Array:
    """Compute the L2 flow matching loss |u - velocity|^2 / 2 + D/2 log 2 pi, where u = noise - x_0.

    The constant makes it equal to `mixture_nll` for K = 1 and log_std = 0.

    Args:
      velocity: the network's prediction, [*batch, D].
      x_0: data, [*batch, D].
      noise: standard normal, [*batch, D].

    Returns:
      [*batch], in nats.

    Raises:
      ValueError: if the shapes differ.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import flow, losses
      >>> x_0, noise = jax.random.normal(jax.random.key(0), (2, 4, 3))
      >>> x_t = flow.interpolate(x_0, noise, 0.5)  # the input of the network
      >>> velocity = noise - x_0  # a perfect prediction
      >>> print(np.asarray(losses.flow_matching_loss(velocity, x_0, noise)).round(3))
      [2.757 2.757 2.757 2.757]
    """
    velocity, x_0, noise = promote(velocity, x_0, noise)
    check_same_shape(velocity=velocity, x_0=x_0, noise=noise)
    error = jnp.square(noise - x_0 - velocity)
    return 0.5 * jnp.sum(error, axis=-1) + 0.5 * _LOG_2PI * velocity.shape[-1]


def policy_loss(
    q: GaussianMixture | Gaussian,
    x_s: jax.Array,
    s: ArrayLike,
    x_t: jax.Array,
    t: ArrayLike,
    velocity: jax.Array,
) -> jax.Array:
    """Compute how far the velocity that a prediction implies at a later point is from a teacher's velocity.

    The loss is |velocity - pi|^2 / 2, where pi is `flow.policy_velocity`.

    Args:
      q: mixture over x_0 predicted at (x_s, s), means [B, ..., K, D].
      x_s: the point of the prediction, [B, ..., D].
      s: its time, a scalar or [B].
      x_t: the later point, [B, ..., D].
      t: its time, at most s: a scalar or [B].
      velocity: the teacher's velocity at (x_t, t), [B, ..., D].

    Returns:
      [B, ...].

    Raises:
      ValueError: if shapes do not fit or t is greater than s.

    Source:
      pi-Flow (arXiv 2510.14974), policy imitation.
    """
    implied, velocity = promote(policy_velocity(q, x_s, s, x_t, t), velocity)
    check_same_shape(velocity=velocity, x_t=implied)
    return 0.5 * jnp.sum(jnp.square(velocity - implied), axis=-1)


def spectral_loss(log_power: jax.Array, q: GaussianMixture, x_0: jax.Array) -> jax.Array:
    r"""Compute the change of the negative log-likelihood -log q(x_0) that a power spectrum makes.

    Let $z$ be the standard normal that `gm.to_standard_normal` gives for x_0, $Z$ its spectral coefficients,
    and $L$ = log_power. The loss is the sum over channels of $(Z^2 (e^{-L} - 1) + L) / 2$. Gradients flow
    into log_power only; q and x_0 are treated as constants.

    Args:
      log_power: [B, H, W, D], frequencies in the order of an FFT.
      q: mixture over x_0, means [B, H, W, K, D].
      x_0: data, [B, H, W, D].

    Returns:
      [B, H, W] over frequencies, in nats; 0 for log_power = 0. Only the sum over an image is a difference of
      log-likelihoods.

    Raises:
      ValueError: if shapes do not fit.

    Source:
      GMFlow (arXiv 2504.05304), eq. 20.
    """
    log_power, q, x_0 = promote(log_power, q, x_0)
    check_same_shape(log_power=log_power, x_0=x_0)
    z = to_standard_normal(*jax.lax.stop_gradient((q, x_0)))
    power = jnp.square(spectral_coefficients(z))
    return 0.5 * jnp.sum(power * jnp.expm1(-log_power) + log_power, axis=-1)
