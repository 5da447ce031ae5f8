"""Square root, logarithm and division without the NaN and infinite gradients of the plain functions."""

import jax
import jax.numpy as jnp

from gmflow_jax._meshes import where


def safe_sqrt(x: jax.Array) -> jax.Array:
    """Return sqrt(max(x, 0)), with gradient 0 where x <= 0.

    Avoids the gradient of `jnp.sqrt`, 0.5 / sqrt(x), which is infinite at 0 and turns into NaN when the
    chain rule multiplies it by 0; and the value NaN below 0, which rounding may reach.
    """
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def safe_log(x: jax.Array) -> jax.Array:
    """Return log(x), or -inf with gradient 0 where x <= 0.

    Avoids the gradient of `jnp.log`, 1 / x, which is infinite at 0: for exp(2 * log(x)) the chain rule
    gives 0 * inf = NaN. Also avoids the value NaN below 0, which rounding may reach.
    """
    positive = x > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, x, 1.0)), -jnp.inf)


@jax.custom_jvp
def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """Return numerator / denominator.

    Avoids the gradient of JAX's division, -numerator / denominator**2: the square underflows to 0 for
    denominators below 1e-19 in float32, which gives an infinite gradient.
    """
    return numerator / denominator


@_ratio.defjvp
def _ratio_jvp(primals, tangents):
    ratio = primals[0] / primals[1]
    return ratio, (tangents[0] - ratio * tangents[1]) / primals[1]


def safe_divide(numerator: jax.Array, denominator: jax.Array, otherwise: float = 0.0) -> jax.Array:
    """Return numerator / denominator, or `otherwise` with gradient 0 where the denominator is 0.

    Avoids 0 / 0 = NaN and x / 0 = inf. The denominator is replaced by 1 there, since
    `jnp.where(denominator != 0, numerator / denominator, otherwise)` alone would still give the gradient
    0 * inf = NaN.

    Args:
      numerator: any shape that broadcasts with `denominator`.
      denominator: may contain zeros.
      otherwise: value where the denominator is 0.

    Returns:
      The ratio, of the broadcast shape.
    """
    nonzero = denominator != 0
    return where(nonzero, _ratio(numerator, jnp.where(nonzero, denominator, 1.0)), otherwise)
