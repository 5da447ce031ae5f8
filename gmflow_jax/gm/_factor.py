"""Gaussian-shaped factors of a density, and their products, so that several become one tilt."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from gmflow_jax._arguments import append_axes
from gmflow_jax._meshes import where
from gmflow_jax._safe import safe_divide
from gmflow_jax.gm._tilt import add_product, tilt_recentered
from gmflow_jax.gm._types import GaussianMixture


class Factor(NamedTuple):
    """The factor exp((linear . (x - center) - precision |x - center|^2 / 2) / scale), as in `tilt`.

    Attributes:
      center: [*batch, D].
      linear: [*batch, D].
      precision: a scalar or an array of the rank of `*batch`.
      scale: likewise, >= 0. If it is 0, the factor is a point mass at center + linear / precision.
    """

    center: jax.Array
    linear: jax.Array
    precision: jax.Array
    scale: jax.Array


def as_ratio(var: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return a precision and a scale, both at most 1, whose ratio is 1 / var: exact for var = 0 and inf."""
    return 1 / jnp.maximum(var, 1.0), jnp.minimum(var, 1.0)


def gaussian_factor(mean: jax.Array, var: jax.Array) -> Factor:
    """Return N(mean, var) as a factor. Where the variance is infinite, the factor is 1 and mean may be NaN.

    Args:
      mean: [*batch, D].
      var: a scalar or an array of the rank of `*batch`.
    """
    center = where(append_axes(jnp.isinf(var), 1), 0.0, mean)
    return Factor(center, jnp.zeros_like(center), *as_ratio(var))


def is_one(factor: Factor) -> jax.Array:
    """Return where a factor is 1, [*batch]."""
    return (factor.precision == 0) & jnp.all(factor.linear == 0, axis=-1)


def combine(a: Factor, b: Factor) -> Factor:
    """Multiply two factors. If both are point masses, the result is b.

    Args:
      a: the first factor.
      b: the second factor, of precision >= 0.

    Returns:
      The product, about the center of b.
    """
    linear = add_product(a.linear, append_axes(a.precision, 1), a.center - b.center)
    # The exponents are added over the denominator a.scale b.scale. Dividing it by `unit` keeps small scales
    # from underflowing.
    unit = jnp.maximum(b.scale, a.scale * b.precision)
    share_a, share_b = safe_divide(b.scale, unit), safe_divide(a.scale, unit, otherwise=1.0)
    return Factor(
        b.center,
        append_axes(share_a, 1) * linear + append_axes(share_b, 1) * b.linear,
        share_a * a.precision + share_b * b.precision,
        share_a * a.scale,
    )


def tilt_by(q: GaussianMixture, factor: Factor) -> GaussianMixture:
    """Multiply a mixture by a factor and renormalise.

    If both the factor and the mixture's components are point masses, the components move to the factor's.

    Args:
      q: mixture over [*batch, D].
      factor: the factor.

    Returns:
      The product, with the K of q.
    """
    center, linear, precision, scale = factor
    tilted = tilt_recentered(q, linear, precision, scale, center)
    both = (scale == 0) & (scale + jnp.exp(2 * q.log_std) * precision == 0)
    point = center + safe_divide(linear, append_axes(precision, 1))
    means = where(append_axes(both, 2), point[..., None, :], tilted.means)
    return GaussianMixture(means, tilted.log_weights, tilted.log_std)


def times(
    mixture: GaussianMixture,
    factor: Factor,
    parts: tuple[GaussianMixture, Factor] | None = None,
) -> GaussianMixture:
    """Multiply a mixture by a factor, in one tilt also if the mixture is itself a tilted one.

    Args:
      mixture: mixture over [*batch, D].
      factor: the factor, of precision >= 0. Where it is 1, the mixture is returned as it is, bit by bit.
      parts: a mixture and a factor whose product `mixture` is; None if it was not tilted.

    Returns:
      The product, with the same K.
    """
    if parts is None:
        tilted = tilt_by(mixture, factor)
    else:
        base, own = parts
        tilted = tilt_by(base, combine(own, factor))
    nothing = is_one(factor)
    return GaussianMixture(
        where(append_axes(nothing, 2), mixture.means, tilted.means),
        where(append_axes(nothing, 1), mixture.log_weights, tilted.log_weights),
        where(factor.precision == 0, mixture.log_std, tilted.log_std),
    )
