"""The Gaussian tilt: the primitive that posteriors, guidance, extrapolation and products are built on."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gmflow_jax._arguments import append_axes, concrete
from gmflow_jax._reductions import log_softmax, shifted_exp, sum_keeping, sum_slices
from gmflow_jax._safe import safe_divide, safe_log
from gmflow_jax.gm._moments import mean_of_component
from gmflow_jax.gm._types import Gaussian, GaussianMixture, promote_mixture


class Centered(NamedTuple):
    """A mixture, and what all its tilts about one center share.

    Attributes:
      mixture: the mixture over [*batch, D].
      center: the center, [*batch, D].
      deltas: means - center, [*batch, K, D].
      var: variance of the components, of the shape of log_std.
    """

    mixture: GaussianMixture
    center: jax.Array
    deltas: jax.Array
    var: jax.Array


def centered(q: GaussianMixture, center: jax.Array) -> Centered:
    """Prepare a mixture for tilts about a center, [*batch, D]."""
    return Centered(q, center, q.means - center[..., None, :], jnp.exp(2 * q.log_std))


def tilt(
    q: GaussianMixture | Gaussian,
    linear: jax.Array,
    precision: jax.Array | float,
    scale: jax.Array | float = 1.0,
    center: jax.Array | None = None,
) -> GaussianMixture:
    r"""Multiply a mixture's density by a Gaussian-shaped factor and renormalise.

    With center $c$, linear $b$, precision $\lambda$ and scale $\gamma$ the result is

    $$q(x) \exp\left(\frac{b \cdot (x - c) - \lambda |x - c|^2 / 2}{\gamma}\right) / Z.$$

    For $\lambda > 0$ the factor is a Gaussian of mean $c + b / \lambda$ and variance $\gamma / \lambda$. Let
    component k of q have mean $\mu_k$, and let $\sigma$ be the standard deviation of q's components. With
    $d = \gamma + \sigma^2 \lambda$ and $m_k = \mu_k - c$, component k of the result has

    - the mean $c + (\gamma m_k + \sigma^2 b) / d$,
    - the variance $\sigma^2 \gamma / d$, and
    - a log-weight that gains $(b \cdot m_k - \lambda |m_k|^2 / 2) / d$ before all are renormalised.

    The computation divides by no small number. It is exact for precision 0, for components of zero
    variance, and for scale 0, where the factor is a point mass at center + linear / precision. The notebook
    01_mixtures shows tilts in pictures.

    Args:
      q: mixture over [*batch, D].
      linear: coefficients of x - center, [*batch, D].
      precision: a scalar or an array of the rank of `*batch`. It may be negative: the factor then grows
        with the distance from center.
      scale: a scalar or an array of the rank of `*batch`, >= 0.
      center: [*batch, D]; None means 0. The log-weights are computed about the mean of a component, not
        about the center, so that they keep their digits where the mixture is far from 0.

    Returns:
      The tilted mixture, with the same K.

    Raises:
      ValueError: if shapes do not fit, or the product cannot be normalised
        (scale + variance * precision <= 0).

    Example:
      Multiplying N(0, 1) by exp(x) moves its mean to 1:

      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import gm
      >>> q = gm.tilt(gm.Gaussian(jnp.zeros(1), jnp.ones(())), linear=jnp.ones(1), precision=0.0)
      >>> print(np.asarray(gm.mean(q)).round(3), np.asarray(gm.moment_match(q).var).round(3))
      [1.] 1.0
    """
    center = jnp.zeros_like(linear) if center is None else center
    q, linear, precision, scale, center = promote_mixture(q, linear, precision, scale, center)
    _check_tilt_shapes(q, linear, precision, scale, center)
    return tilt_recentered(q, linear, precision, scale, center)


def tilt_recentered(
    q: GaussianMixture, linear: jax.Array, precision: jax.Array, scale: jax.Array, center: jax.Array
) -> GaussianMixture:
    """`tilt` without promotion and shape checks, for a center that may be far from the mixture.

    Args:
      q: mixture over [*batch, D].
      linear: [*batch, D].
      precision: a scalar or an array of the rank of `*batch`.
      scale: a scalar or an array of the rank of `*batch`.
      center: [*batch, D].

    Returns:
      The tilted mixture, with the same K.
    """
    # About a center far from the mixture, linear . m_k and |m_k|^2 would be large and cancel. Any center
    # gives the same factor, up to a constant, if the linear coefficient is changed accordingly.
    about_center = centered(q, center)
    keep, pull, logits = _tilt(about_center, linear, precision, scale)
    for _ in range(2):  # about the component that is then the most likely, as the first result says
        middle = mean_of_component(q, jnp.argmax(logits, axis=-1))
        slope = add_product(linear, append_axes(precision, 1), center - middle)
        keep, pull, logits = _tilt(centered(q, middle), slope, precision, scale)
    return _moved(about_center, linear, keep, pull, logits)


def tilt_unchecked(
    q: Centered, linear: jax.Array, precision: jax.Array, scale: jax.Array
) -> GaussianMixture:
    """`tilt` without promotion and shape checks.

    Args:
      q: mixture over [*batch, D], with the center.
      linear: [*batch, D].
      precision: a scalar or an array of the rank of `*batch`.
      scale: a scalar or an array of the rank of `*batch`.

    Returns:
      The tilted mixture, with the same K.
    """
    return _moved(q, linear, *_tilt(q, linear, precision, scale))


def add_product(a: jax.Array, x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute a + x y without rounding the product, which may cancel a."""
    half = (jnp.finfo(a.dtype).nmant + 1) // 2 - 1
    exponent = jnp.finfo(a.dtype).nexp
    x_high, y_high = (jax.lax.reduce_precision(v, exponent, half) for v in (x, y))
    return ((a + x_high * y_high) + x_high * (y - y_high)) + (x - x_high) * y


def _moved(
    q: Centered, linear: jax.Array, keep: jax.Array, pull: jax.Array, logits: jax.Array
) -> GaussianMixture:
    """Make the tilted mixture from the results of `_tilt`."""
    moved = append_axes(keep, 2) * q.deltas + append_axes(pull, 2) * linear[..., None, :]
    log_std = q.mixture.log_std + 0.5 * safe_log(keep)
    return GaussianMixture(q.center[..., None, :] + moved, log_softmax(logits), log_std)


def tilted_mean_unchecked(
    q: Centered, linear: jax.Array, precision: jax.Array, scale: jax.Array
) -> jax.Array:
    """Compute the mean of `tilt_unchecked`, [*batch, D], without forming the mixture.

    Args:
      q: mixture over [*batch, D], with the center.
      linear: [*batch, D].
      precision: a scalar or an array of the rank of `*batch`.
      scale: a scalar or an array of the rank of `*batch`.
    """
    keep, pull, logits = _tilt(q, linear, precision, scale)
    weights, _ = shifted_exp(logits)
    # The means, not their distances from the center: in a loop XLA for TPUs keeps each of the two arrays in
    # the layout in which it is read, and would convert a single one in every iteration.
    means = q.mixture.means
    total = sum_slices(lambda k: weights[..., k, None] * means[..., k, :], weights.shape[-1], axis=-2)
    delta = total / sum_keeping(weights) - q.center
    return q.center + append_axes(keep, 1) * delta + append_axes(pull, 1) * linear


def _tilt(
    q: Centered, linear: jax.Array, precision: jax.Array, scale: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the coefficients of a tilted mixture.

    Returns:
      keep and pull, of the shape of log_std, and unnormalised log-weights [*batch, K]. A component's new
      mean is center + keep (mean - center) + pull linear, and its new variance keep var.
    """
    d = scale + q.var * precision
    # d = 0 if scale is 0 and the variance or the precision is, too. The components then stay as they are.
    keep = safe_divide(scale, d, otherwise=1.0)
    pull = safe_divide(q.var, d)
    half = 0.5 * append_axes(precision, 2)

    def exponent(i):
        delta = q.deltas[..., i]
        return delta * (linear[..., None, i] - half * delta)

    exponents = sum_slices(exponent, linear.shape[-1], axis=-1)
    return keep, pull, q.mixture.log_weights + safe_divide(exponents, append_axes(d, 1))


def _check_tilt_shapes(
    q: GaussianMixture, linear: jax.Array, precision: jax.Array, scale: jax.Array, center: jax.Array
) -> None:
    batch, dim = q.means.shape[:-2], q.means.shape[-1]
    for name, value in (("linear", linear), ("center", center)):
        if value.shape != (*batch, dim):
            raise ValueError(
                f"{name} has shape {value.shape}, but the mixture is over {(*batch, dim)}. Broadcast "
                "it to that shape."
            )
    for name, value in (("precision", precision), ("scale", scale)):
        if value.ndim not in (0, len(batch)):
            raise ValueError(
                f"{name} has shape {value.shape}; it must be a scalar or have the {len(batch)} axes "
                f"of the batch {batch}, each of size 1 or the batch's size."
            )
    d, unbounded = concrete(scale + jnp.exp(2 * q.log_std) * precision), concrete(scale > 0)
    if d is not None and np.any((d < 0) | ((d == 0) & unbounded)):
        raise ValueError(
            f"The tilted density cannot be normalised: scale + variance * precision reaches "
            f"{d.min():.3g}, and it must be positive. Use a smaller negative precision (or power)."
        )
