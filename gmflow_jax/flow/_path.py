"""The straight path x_t = (1 - t) x_0 + t noise, and changes of variable along it.

Data is at t = 0, standard normal noise at t = 1: alpha = 1 - t, sigma = t. The velocity is u = noise - x_0.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gmflow_jax._arguments import append_axes, check_same_shape, check_times_ordered, expand_time, promote
from gmflow_jax._safe import safe_divide, safe_log, safe_sqrt
from gmflow_jax.gm._types import Gaussian, GaussianMixture, check_mixture

Prediction = GaussianMixture | Gaussian | jax.Array
_Prediction = TypeVar("_Prediction", bound=Prediction)

# Lower bound of t in to_velocity, which divides by t. At t = 0 the velocity is undetermined.
_MIN_TIME = 1e-12


def interpolate(x_0: jax.Array, noise: jax.Array, t: ArrayLike) -> jax.Array:
    """Interpolate between data and noise, x_t = (1 - t) x_0 + t noise.

    Args:
      x_0: data, [B, ..., D].
      noise: standard normal, [B, ..., D].
      t: time, a scalar or [B].

    Returns:
      x_t, [B, ..., D].

    Raises:
      ValueError: if shapes do not fit.

    Source:
      GMFlow (arXiv 2504.05304), eq. 1.
    """
    x_0, noise, t = promote(x_0, noise, t)
    check_same_shape(x_0=x_0, noise=noise)
    t = append_axes(expand_time(t, x_0.shape[:-1]), 1)
    return (1 - t) * x_0 + t * noise


def forward_transition(x_s: jax.Array, noise: jax.Array, s: ArrayLike, t: ArrayLike) -> jax.Array:
    """Draw x_t given x_s at a less noisy time s < t.

    If x_s lies on the path of some x_0 at s, the result is distributed as that path at t.

    Args:
      x_s: state at s, [B, ..., D].
      noise: standard normal, [B, ..., D].
      s: the less noisy time, a scalar or [B].
      t: the noisier time, a scalar or [B].

    Returns:
      x_t, [B, ..., D].

    Raises:
      ValueError: if shapes do not fit or s is not less than t.

    Source:
      GMFlow (arXiv 2504.05304), algorithm 1.
    """
    check_times_ordered(t, s)
    x_s, noise, s, t = promote(x_s, noise, s, t)
    check_same_shape(x_s=x_s, noise=noise)
    return forward_unchecked(x_s, noise, *(expand_time(v, x_s.shape[:-1]) for v in (s, t)))


def forward_unchecked(x_s: jax.Array, noise: jax.Array, s: jax.Array, t: jax.Array) -> jax.Array:
    """`forward_transition` without promotion and checks, also for s = t; times at the rank of `*batch`."""
    s, t = append_axes(s, 1), append_axes(t, 1)
    k = safe_divide(1 - t, 1 - s)
    # sigma_t^2 - k^2 sigma_s^2 = (t - k s)(t + k s). Written as (t - s) / (1 - s), t - k s does not cancel.
    std = safe_sqrt(safe_divide(t - s, 1 - s) * (t + k * s))
    return k * x_s + std * noise


def to_data(prediction: _Prediction, x_t: jax.Array, t: ArrayLike) -> _Prediction:
    """Convert a prediction of the velocity u to a prediction of x_0 = x_t - t u.

    Args:
      prediction: GaussianMixture with means [B, ..., K, D], Gaussian, or array [B, ..., D].
      x_t: state, [B, ..., D].
      t: time, a scalar or [B].

    Returns:
      The prediction of x_0, of the type of `prediction`.

    Raises:
      ValueError: if shapes do not fit.
    """
    prediction, x_t, t = promote(prediction, x_t, t)
    t = checked_time(prediction, x_t, t)
    return _move(prediction, x_t, t, lambda u, x_t, t: x_t - t * u, scale=t)


def to_velocity(prediction: _Prediction, x_t: jax.Array, t: ArrayLike) -> _Prediction:
    """Convert a prediction of x_0 to a prediction of the velocity u = (x_t - x_0) / t.

    This is the inverse of `to_data`. Times below 1e-12 are replaced by 1e-12, since u is undetermined at 0.

    Args:
      prediction: GaussianMixture with means [B, ..., K, D], Gaussian, or array [B, ..., D].
      x_t: state, [B, ..., D].
      t: time, a scalar or [B].

    Returns:
      The prediction of the velocity, of the type of `prediction`.

    Raises:
      ValueError: if shapes do not fit.

    Source:
      GMFlow (arXiv 2504.05304), eq. 2.
    """
    prediction, x_t, t = promote(prediction, x_t, t)
    t = jnp.maximum(checked_time(prediction, x_t, t), _MIN_TIME)
    # Subtract before dividing: at small t, x_t / t - x_0 / t would cancel and lose all digits.
    return _move(prediction, x_t, t, lambda x_0, x_t, t: (x_t - x_0) / t, scale=1 / t)


def checked_time(prediction: Prediction, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """Check that a prediction is over the axes of x_t, and expand the time.

    Args:
      prediction: GaussianMixture with means [B, ..., K, D], Gaussian, or array [B, ..., D].
      x_t: [B, ..., D].
      t: a scalar or [B].

    Returns:
      t at the rank of the batch axes.

    Raises:
      ValueError: if shapes do not fit.
    """
    check_over(prediction, x_t)
    return expand_time(t, x_t.shape[:-1])


def check_over(prediction: Prediction, x_t: jax.Array) -> None:
    """Raise ValueError unless a prediction is over the axes of x_t."""
    if isinstance(prediction, GaussianMixture):
        check_mixture(prediction)
        shape = (*prediction.means.shape[:-2], prediction.means.shape[-1])
    else:
        shape = prediction.mean.shape if isinstance(prediction, Gaussian) else prediction.shape
    if shape != x_t.shape:
        raise ValueError(
            f"The prediction is over {shape}, but x_t has shape {x_t.shape}: both must have the same "
            "batch axes and channels. Check what the network returns."
        )


def _move(
    prediction: _Prediction, x_t: jax.Array, t: jax.Array, points: Callable, scale: jax.Array
) -> _Prediction:
    """Apply an affine map to a prediction.

    Args:
      prediction: of y.
      x_t: [B, ..., D].
      t: at the rank of the batch axes.
      points: (y, x_t, t) -> the image of y.
      scale: factor by which the map scales lengths.

    Returns:
      The prediction of the image, of the type of `prediction`.
    """
    if isinstance(prediction, GaussianMixture):
        means = points(prediction.means, x_t[..., None, :], append_axes(t, 2))
        return dataclasses.replace(prediction, means=means, log_std=prediction.log_std + safe_log(scale))
    if isinstance(prediction, Gaussian):
        mean = points(prediction.mean, x_t, append_axes(t, 1))
        return dataclasses.replace(prediction, mean=mean, var=prediction.var * jnp.square(scale))
    return points(prediction, x_t, append_axes(t, 1))
