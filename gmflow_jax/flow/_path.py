"""The straight path x_t = (1 - t) x_0 + t noise, its transitions, and changes of variable.

Data at t = 0, standard normal noise at t = 1; sigma = t, alpha = 1 - t; velocity u = noise - x_0.
"""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gmflow_jax._arguments import append_axes, check_same_shape, check_times_ordered, expand_time, promote
from gmflow_jax._safe import safe_divide, safe_log, safe_sqrt
from gmflow_jax.gm._moments import weighted_mean
from gmflow_jax.gm._tilt import tilt_unchecked, tilted_mean_unchecked
from gmflow_jax.gm._types import Gaussian, GaussianMixture, as_mixture, check_mixture, promote_mixture

Prediction = GaussianMixture | Gaussian | jax.Array
_Prediction = TypeVar("_Prediction", bound=Prediction)

# to_velocity divides by t. At t = 0 any velocity fits; this floor keeps values and gradients finite.
_MIN_TIME = 1e-12


def interpolate(x_0: jax.Array, noise: jax.Array, t: ArrayLike) -> jax.Array:
    """x_t = (1 - t) x_0 + t noise (eq. 1). x_0 and noise [B, ..., D]; t a scalar or [B]."""
    x_0, noise, t = promote(x_0, noise, t)
    check_same_shape(x_0=x_0, noise=noise)
    t = append_axes(expand_time(t, x_0.shape[:-1]), 1)
    return (1 - t) * x_0 + t * noise


def forward_transition(x_s: jax.Array, noise: jax.Array, s: ArrayLike, t: ArrayLike) -> jax.Array:
    """Draw x_t given x_s at the less noisy time s < t (algorithm 1): marginals are kept.

    Args:
      x_s, noise: [B, ..., D], noise standard normal.
      s, t: scalars or [B].
    """
    check_times_ordered(t, s)
    x_s, noise, s, t = promote(x_s, noise, s, t)
    check_same_shape(x_s=x_s, noise=noise)
    s, t = (append_axes(expand_time(v, x_s.shape[:-1]), 1) for v in (s, t))
    k = safe_divide(1 - t, 1 - s)
    # sigma_t^2 - k^2 sigma_s^2 = (t - k s)(t + k s), and t - k s = (t - s) / (1 - s) without cancelling.
    std = safe_sqrt(safe_divide(t - s, 1 - s) * (t + k * s))
    return k * x_s + std * noise


def to_data(prediction: _Prediction, x_t: jax.Array, t: ArrayLike) -> _Prediction:
    """Turn a prediction of the velocity u into one of x_0 = x_t - t u; same type out as in.

    Args:
      prediction: GaussianMixture [B, ..., K, D], Gaussian, or array [B, ..., D].
      x_t: [B, ..., D].
      t: scalar or [B].
    """
    prediction, x_t, t = promote(prediction, x_t, t)
    t = _time_of(prediction, x_t, t)
    return _move(prediction, x_t, t, lambda u, x_t, t: x_t - t * u, scale=t)


def to_velocity(prediction: _Prediction, x_t: jax.Array, t: ArrayLike) -> _Prediction:
    """Turn a prediction of x_0 into one of the velocity u = (x_t - x_0) / t (eq. 2): `to_data` undone.

    t is floored at 1e-12, below which u is undetermined.
    """
    prediction, x_t, t = promote(prediction, x_t, t)
    t = jnp.maximum(_time_of(prediction, x_t, t), _MIN_TIME)
    # The difference first: x_t / t and x_0 / t cancel, which loses all digits at small t.
    return _move(prediction, x_t, t, lambda x_0, x_t, t: (x_t - x_0) / t, scale=1 / t)


def _time_of(prediction: Prediction, x_t: jax.Array, t: jax.Array) -> jax.Array:
    """Check that the prediction is over x_t's space, and give t the batch's rank."""
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
    return expand_time(t, x_t.shape[:-1])


def _move(
    prediction: _Prediction, x_t: jax.Array, t: jax.Array, points: Callable, scale: jax.Array
) -> _Prediction:
    """The law of points(y, x_t, t) for y ~ prediction, an affine map that scales lengths by `scale`."""
    if isinstance(prediction, GaussianMixture):
        means = points(prediction.means, x_t[..., None, :], append_axes(t, 2))
        return dataclasses.replace(prediction, means=means, log_std=prediction.log_std + safe_log(scale))
    if isinstance(prediction, Gaussian):
        mean = points(prediction.mean, x_t, append_axes(t, 1))
        return dataclasses.replace(prediction, mean=mean, var=prediction.var * jnp.square(scale))
    return points(prediction, x_t, append_axes(t, 1))


def reverse_coefficients(t: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """c1, c2, c3 of p(x_s | x_t, x_0) = N(c1 x_t + c2 x_0, c3 I) (eq. 9), same shapes as t and s."""
    # s = t = 0 is the identity, as s = t is elsewhere: c1 = 1.
    a, b = safe_divide(s, t, otherwise=1.0), safe_divide(1 - t, 1 - s)
    # 1 - (a b)^2 from its factors; 1 - a b = (t - s) / (t (1 - s)) does not cancel as s -> t.
    beta = safe_divide(t - s, t * (1 - s)) * (1 + a * b)
    return jnp.square(a) * b, beta * (1 - s), beta * jnp.square(s)


def reverse_transition(
    q: GaussianMixture | Gaussian, x_t: jax.Array, t: ArrayLike, s: ArrayLike
) -> GaussianMixture:
    """The law of x_s given x_t at s < t, when x_0 follows q (eq. 9).

    Args:
      q: mixture over x_0, [B, ..., K, D].
      x_t: [B, ..., D].
      t, s: scalars or [B].

    Returns:
      Mixture over x_s: same K and weights, means c1 x_t + c2 mu, variance c3 + c2^2 std^2, no floor.
    """
    check_times_ordered(t, s)
    q, x_t, t, s = promote_mixture(q, x_t, t, s)
    t, s = _time_of(q, x_t, t), expand_time(s, x_t.shape[:-1], "s")
    c1, c2, c3 = reverse_coefficients(t, s)
    means = append_axes(c1, 2) * x_t[..., None, :] + append_axes(c2, 2) * q.means
    var = c3 + jnp.square(c2) * jnp.exp(2 * q.log_std)
    return GaussianMixture(means, q.log_weights, 0.5 * safe_log(var))


def posterior(
    q: GaussianMixture | Gaussian, x_t: jax.Array, t: ArrayLike, x_s: jax.Array, s: ArrayLike
) -> GaussianMixture:
    """Move a prediction to another point (eq. 10): q(x_0 | x_s) ~ p(x_s | x_0) / p(x_t | x_0) q(x_0 | x_t).

    Args:
      q: mixture over x_0 predicted at (x_t, t), [B, ..., K, D].
      x_t, x_s: [B, ..., D].
      t, s: scalars or [B], s <= t. At s = 0 the result is the point mass x_s (log_std -inf).

    Returns:
      Mixture over x_0 at (x_s, s), same K; q itself for s = t and x_s = x_t.
    """
    return posterior_unchecked(*_check_posterior(q, x_t, t, x_s, s))


def posterior_mean(
    q: GaussianMixture | Gaussian, x_t: jax.Array, t: ArrayLike, x_s: jax.Array, s: ArrayLike
) -> jax.Array:
    """The mean of `posterior`, [B, ..., D], without forming the mixture; same arguments."""
    return posterior_mean_unchecked(*_check_posterior(q, x_t, t, x_s, s))


def _check_posterior(
    q: GaussianMixture | Gaussian, x_t: jax.Array, t: ArrayLike, x_s: jax.Array, s: ArrayLike
) -> tuple[GaussianMixture, jax.Array, jax.Array, jax.Array, jax.Array]:
    check_times_ordered(t, s, allow_equal=True)
    q, x_t, t, x_s, s = promote_mixture(q, x_t, t, x_s, s)
    check_same_shape(x_t=x_t, x_s=x_s)
    return q, x_t, _time_of(q, x_t, t), x_s, expand_time(s, x_t.shape[:-1], "s")


def posterior_unchecked(
    q: GaussianMixture, x_t: jax.Array, t: jax.Array, x_s: jax.Array, s: jax.Array
) -> GaussianMixture:
    """`posterior` for arguments of one dtype, times of the batch's rank, and any s <= t."""
    return tilt_unchecked(q, *_transition_ratio(q, x_t, t, x_s, s))


def posterior_mean_unchecked(
    q: GaussianMixture, x_t: jax.Array, t: jax.Array, x_s: jax.Array, s: jax.Array
) -> jax.Array:
    """`posterior_mean` for such arguments as `posterior_unchecked` takes."""
    return tilted_mean_unchecked(q, *_transition_ratio(q, x_t, t, x_s, s))


def _transition_ratio(
    q: GaussianMixture, x_t: jax.Array, t: jax.Array, x_s: jax.Array, s: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """p(x_s | x_0) / p(x_t | x_0) as a factor to tilt by: linear, precision, scale and center.

    Written about c = mean(q) in displacements, and times s^2: the textbook
    alpha_s x_s - (s / t)^2 alpha_t x_t cancels at small t, and dividing by s^2 fails at 0.
    """
    r = jnp.square(safe_divide(s, t))
    center = weighted_mean(q)
    s_, t_, r_ = (append_axes(v, 1) for v in (s, t, r))
    pull = (1 - s_) * ((x_s - center) + s_ * center)
    push = (1 - t_) * r_ * ((x_t - center) + t_ * center)
    precision = safe_divide((t - s) * (t + s - 2 * t * s), jnp.square(t))
    return pull - push, precision, jnp.square(s), center


def denoiser(
    velocity_fn: Callable[[jax.Array, jax.Array], Prediction],
) -> Callable[[jax.Array, jax.Array], GaussianMixture]:
    """Turn velocity_fn(x_t, t) into denoise(x_t, t) -> GaussianMixture over x_0, as solvers need it.

    velocity_fn may return a GaussianMixture over u, or an array [B, ..., D]: a plain flow model is
    the K = 1 mixture of unit variance (log_std = 0 for u, log t for x_0).
    """

    def denoise(x_t: jax.Array, t: jax.Array) -> GaussianMixture:
        prediction = velocity_fn(x_t, t)
        if not isinstance(prediction, (GaussianMixture, Gaussian)):
            prediction = Gaussian(jnp.asarray(prediction), jnp.ones((), jnp.float32))
        return to_data(as_mixture(prediction), x_t, t)

    return denoise
