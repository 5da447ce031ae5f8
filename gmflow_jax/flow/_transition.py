"""Reverse transitions and posteriors: what a prediction of x_0 at (x_t, t) implies at less noisy times."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gmflow_jax._arguments import append_axes, check_same_shape, check_times_ordered, expand_time
from gmflow_jax._reductions import stored
from gmflow_jax._safe import safe_divide, safe_log
from gmflow_jax.flow._path import checked_time
from gmflow_jax.gm._moments import weighted_mean
from gmflow_jax.gm._tilt import Centered, centered, tilt_unchecked, tilted_mean_unchecked
from gmflow_jax.gm._types import Gaussian, GaussianMixture, promote_mixture


def reverse_coefficients(t: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return c1, c2, c3 of p(x_s | x_t, x_0) = N(c1 x_t + c2 x_0, c3 I), eq. 9.

    t and s have shapes that broadcast.
    """
    # At s = t = 0 the transition is the identity, as for other s = t: c1 = 1.
    a, b = safe_divide(s, t, otherwise=1.0), safe_divide(1 - t, 1 - s)
    # 1 - (a b)^2 = (1 - a b)(1 + a b). Written as (t - s) / (t (1 - s)), 1 - a b does not cancel as s -> t.
    beta = safe_divide(t - s, t * (1 - s)) * (1 + a * b)
    return jnp.square(a) * b, beta * (1 - s), beta * jnp.square(s)


def reverse_transition(
    q: GaussianMixture | Gaussian, x_t: jax.Array, t: ArrayLike, s: ArrayLike
) -> GaussianMixture:
    """Compute the distribution of x_s given x_t, for s < t and x_0 distributed as q.

    Args:
      q: mixture over x_0, means [B, ..., K, D].
      x_t: state at t, [B, ..., D].
      t: the noisier time, a scalar or [B].
      s: the less noisy time, a scalar or [B].

    Returns:
      Mixture over x_s with the same K and weights, means c1 x_t + c2 mu and variance c3 + c2^2 std^2. The
      variance has no lower bound.

    Raises:
      ValueError: if shapes do not fit or s is not less than t.

    Source:
      GMFlow (arXiv 2504.05304), eq. 9.
    """
    check_times_ordered(t, s)
    q, x_t, t, s = promote_mixture(q, x_t, t, s)
    t, s = checked_time(q, x_t, t), expand_time(s, x_t.shape[:-1], "s")
    c1, c2, c3 = reverse_coefficients(t, s)
    means = append_axes(c1, 2) * x_t[..., None, :] + append_axes(c2, 2) * q.means
    var = c3 + jnp.square(c2) * jnp.exp(2 * q.log_std)
    return GaussianMixture(means, q.log_weights, 0.5 * safe_log(var))


def posterior(
    q: GaussianMixture | Gaussian, x_t: jax.Array, t: ArrayLike, x_s: jax.Array, s: ArrayLike
) -> GaussianMixture:
    r"""Move a prediction of x_0 from (x_t, t) to another point (x_s, s), without a network call.

    $$q(x_0 | x_s) \propto \frac{p(x_s | x_0)}{p(x_t | x_0)} q(x_0 | x_t)$$

    Args:
      q: mixture over x_0 predicted at (x_t, t), means [B, ..., K, D].
      x_t: [B, ..., D].
      t: the noisier time, a scalar or [B].
      x_s: [B, ..., D].
      s: the less noisy time, a scalar or [B]; s = t is allowed. At s = 0 < t the result is a point mass at
        x_s (log_std = -inf).

    Returns:
      Mixture over x_0 at (x_s, s), with the same K. It equals q for s = t and x_s = x_t.

    Raises:
      ValueError: if shapes do not fit or s is greater than t.

    Source:
      GMFlow (arXiv 2504.05304), eq. 10.

    Example:
      At a less noisy point the prediction is more certain:

      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import flow, gm
      >>> q = gm.Gaussian(mean=jnp.zeros((1, 2)), var=jnp.ones((1,)))
      >>> moved = flow.posterior(q, x_t=jnp.zeros((1, 2)), t=1.0, x_s=jnp.ones((1, 2)), s=0.5)
      >>> print(np.asarray(gm.mean(moved)).round(3), np.asarray(gm.moment_match(moved).var).round(3))
      [[1. 1.]] [0.5]
    """
    prepared, x_s, s = _prepare_checked(q, x_t, t, x_s, s)
    return posterior_at(prepared, x_s, s)


def posterior_mean(
    q: GaussianMixture | Gaussian, x_t: jax.Array, t: ArrayLike, x_s: jax.Array, s: ArrayLike
) -> jax.Array:
    """Compute the mean of `posterior` without forming the mixture.

    Args:
      q: mixture over x_0 predicted at (x_t, t), means [B, ..., K, D].
      x_t: [B, ..., D].
      t: the noisier time, a scalar or [B].
      x_s: [B, ..., D].
      s: the less noisy time, a scalar or [B]; s = t is allowed.

    Returns:
      [B, ..., D].

    Raises:
      ValueError: if shapes do not fit or s is greater than t.
    """
    prepared, x_s, s = _prepare_checked(q, x_t, t, x_s, s)
    return posterior_mean_at(prepared, x_s, s)


def _prepare_checked(
    q: GaussianMixture | Gaussian, x_t: jax.Array, t: ArrayLike, x_s: jax.Array, s: ArrayLike
) -> tuple["Prepared", jax.Array, jax.Array]:
    check_times_ordered(t, s, allow_equal=True)
    q, x_t, t, x_s, s = promote_mixture(q, x_t, t, x_s, s)
    check_same_shape(x_t=x_t, x_s=x_s)
    return prepare(q, x_t, checked_time(q, x_t, t)), x_s, expand_time(s, x_t.shape[:-1], "s")


class Prepared(NamedTuple):
    """A mixture predicted at (x_t, t), and what its posteriors at all later points share.

    Attributes:
      prediction: the mixture over x_0, [*batch, K, D], with its mean as the center.
      push: the coefficient (1 - t) x_t of 1 / p(x_t | x_0), about the center: [*batch, D].
      t: the time, at the rank of `*batch`.
    """

    prediction: Centered
    push: jax.Array
    t: jax.Array


def prepare(q: GaussianMixture, x_t: jax.Array, t: jax.Array) -> Prepared:
    """Prepare a prediction for `posterior_at` and `posterior_mean_at`.

    In a loop over points, prepare it once before the loop: not every compiler moves this part there.

    Args:
      q: mixture over x_0 predicted at (x_t, t), means [*batch, K, D].
      x_t: [*batch, D].
      t: at the rank of `*batch`.

    Returns:
      The prepared prediction.
    """
    # About the origin, alpha_s x_s - (s / t)^2 alpha_t x_t would cancel at small t.
    center, t_ = stored(weighted_mean(q)), append_axes(t, 1)
    return Prepared(centered(q, center), (1 - t_) * ((x_t - center) + t_ * center), t)


def posterior_at(prepared: Prepared, x_s: jax.Array, s: jax.Array) -> GaussianMixture:
    """`posterior` of a prepared prediction, without promotion and checks.

    Args:
      prepared: the prediction.
      x_s: [*batch, D].
      s: the less noisy time, at the rank of `*batch`.

    Returns:
      Mixture over x_0 at (x_s, s), with the same K.
    """
    return tilt_unchecked(prepared.prediction, *_transition_ratio(prepared, x_s, s))


def posterior_mean_at(prepared: Prepared, x_s: jax.Array, s: jax.Array) -> jax.Array:
    """`posterior_mean` of a prepared prediction, without promotion and checks.

    Args:
      prepared: the prediction.
      x_s: [*batch, D].
      s: the less noisy time, at the rank of `*batch`.

    Returns:
      [*batch, D].
    """
    return tilted_mean_unchecked(prepared.prediction, *_transition_ratio(prepared, x_s, s))


def _transition_ratio(
    prepared: Prepared, x_s: jax.Array, s: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return linear, precision and scale with which `tilt` multiplies by p(x_s | x_0) / p(x_t | x_0).

    The scale is s^2, so that nothing is divided by s^2, which may be 0.
    """
    center, t = prepared.prediction.center, prepared.t
    s_, r_ = append_axes(s, 1), append_axes(jnp.square(safe_divide(s, t)), 1)
    pull = (1 - s_) * ((x_s - center) + s_ * center)
    precision = safe_divide((t - s) * (t + s - 2 * t * s), jnp.square(t))
    return pull - r_ * prepared.push, precision, jnp.square(s)
