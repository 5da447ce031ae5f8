"""Functions whose values and gradients stay finite where the plain ones give NaN or infinity."""

import jax
import jax.numpy as jnp


def safe_sqrt(x: jax.Array) -> jax.Array:
    """sqrt(max(x, 0)) whose gradient is 0, not infinite, where x <= 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def safe_log(x: jax.Array) -> jax.Array:
    """log(x), -inf at x <= 0 with gradient 0 there: the gradient 1/0 would turn 0 * inf into NaN."""
    positive = x > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, x, 1.0)), -jnp.inf)


@jax.custom_jvp
def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    return numerator / denominator


@_ratio.defjvp
def _ratio_jvp(primals, tangents):
    # jax's own rule divides by denominator^2, which underflows below 1e-19 in float32.
    ratio = primals[0] / primals[1]
    return ratio, (tangents[0] - ratio * tangents[1]) / primals[1]


def safe_divide(numerator: jax.Array, denominator: jax.Array, otherwise: float = 0.0) -> jax.Array:
    """numerator / denominator, and `otherwise` with gradient 0 where the denominator is 0."""
    nonzero = denominator != 0
    return jnp.where(nonzero, _ratio(numerator, jnp.where(nonzero, denominator, 1.0)), otherwise)
