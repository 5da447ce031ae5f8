"""The map between a 1-D mixture and the standard normal: z = Phi^-1(F(x)) and its inverse.

All in log-probabilities of the smaller tail, so that nothing is clipped: z keeps its digits where F(x)
rounds to 0 or 1.
"""

import math

import jax
import jax.numpy as jnp
from jax.nn import logsumexp
from jax.scipy.special import log_ndtr, ndtr, ndtri

_LOG_2PI = math.log(2 * math.pi)
# Each iteration halves the bracket or the step; this many bisections alone resolve any float32 or float64.
_MAX_ITERATIONS = 200


def to_normal(x: jax.Array, means: jax.Array, log_weights: jax.Array, std: jax.Array) -> jax.Array:
    """z = Phi^-1(F(x)) for F(x) = sum_k w_k Phi((x - mu_k) / std).

    Args:
      x: [...].
      means, log_weights: [..., K], weights normalised.
      std: broadcastable to [...], positive.
    """
    u = (x[..., None] - means) / std[..., None]
    upper = jnp.sum(jnp.exp(log_weights) * ndtr(u), axis=-1) > 0.5
    tail = logsumexp(log_weights + log_ndtr(jnp.where(upper[..., None], -u, u)), axis=-1)
    z = _normal_of_log_cdf(jnp.minimum(tail, -math.log(2)))
    return jnp.where(upper, -z, z)


@jax.custom_jvp
def from_normal(z: jax.Array, means: jax.Array, log_weights: jax.Array, std: jax.Array) -> jax.Array:
    """The inverse of `to_normal` in x: the quantile of the mixture at Phi(z).

    Newton's method on z(x), kept inside a bracket and replaced by bisection where it does not halve its
    step; it always converges. Differentiable by the implicit function theorem.
    """
    # All components lie between: F is a mean of Phi((x - mu_k) / std), and each is Phi(z) at mu_k + std z.
    low, high = jnp.min(means, -1) + std * z, jnp.max(means, -1) + std * z
    resolution = jnp.finfo(z.dtype).eps

    def unfinished(carry):
        step, x, *_, iteration = carry
        return (iteration < _MAX_ITERATIONS) & jnp.any(jnp.abs(step) > resolution * (jnp.abs(x) + std))

    def improve(carry):
        step, x, low, high, iteration = carry
        found = to_normal(x, means, log_weights, std)
        low, high = jnp.where(found < z, x, low), jnp.where(found < z, high, x)
        newton = (z - found) * _slope(found, x, means, log_weights, std)
        fits = (jnp.abs(newton) <= 0.5 * jnp.abs(step)) & (x + newton >= low) & (x + newton <= high)
        new = jnp.where(fits, x + newton, low + 0.5 * (high - low))
        return new - x, new, low, high, iteration + 1

    spread = jnp.sum(jnp.exp(log_weights) * jnp.square(means), -1) - jnp.square(_mean(means, log_weights))
    start = _mean(means, log_weights) + z * jnp.sqrt(jnp.maximum(spread, 0) + jnp.square(std))
    start = jnp.clip(start, low, high)
    carry = (high - low, start, low, high, jnp.int32(0))
    return jax.lax.while_loop(unfinished, improve, carry)[1]


@from_normal.defjvp
def _from_normal_jvp(primals, tangents):
    z, means, log_weights, std = primals
    dz, dmeans, dlog_weights, dstd = tangents
    x = from_normal(*primals)
    u = (x[..., None] - means) / std[..., None]
    share = jax.nn.softmax(log_weights - 0.5 * jnp.square(u), axis=-1)
    # The weights move the tail that z lies in; both tails give the same where the weights stay normalised.
    side = jnp.where(z > 0, -1.0, 1.0)[..., None].astype(x.dtype)
    log_tails = log_weights + log_ndtr(side * u)
    log_density = _log_density(u, log_weights, std)[..., None]
    of_weights = -side * _finite_exp(log_tails - log_density)
    dx = _slope(z, x, means, log_weights, std) * dz
    dx = dx + jnp.sum(share * (dmeans + u * dstd[..., None]), axis=-1)
    return x, dx + jnp.sum(of_weights * dlog_weights, axis=-1)


def _mean(means, log_weights):
    return jnp.sum(jnp.exp(log_weights) * means, axis=-1)


def _log_density(u, log_weights, std):
    return logsumexp(log_weights - 0.5 * jnp.square(u), axis=-1) - 0.5 * _LOG_2PI - jnp.log(std)


def _slope(z, x, means, log_weights, std):
    """dx/dz = phi(z) / f(x): huge between components far apart, but finite."""
    log_density = _log_density((x[..., None] - means) / std[..., None], log_weights, std)
    return _finite_exp(-0.5 * jnp.square(z) - 0.5 * _LOG_2PI - log_density)


def _finite_exp(x: jax.Array) -> jax.Array:
    return jnp.exp(jnp.minimum(x, 60.0))


@jax.custom_jvp
def _normal_of_log_cdf(log_p: jax.Array) -> jax.Array:
    """Phi^-1(exp(log_p)) for log_p <= log 0.5, accurate however small exp(log_p) is."""
    central = ndtri(jnp.exp(jnp.maximum(log_p, -5.0)))
    square = jnp.maximum(-2 * log_p - _LOG_2PI, 4.0)
    z = jnp.where(log_p > -5.0, central, -jnp.sqrt(square - jnp.log(square) * (1 - 1 / square)))
    for _ in range(2 if z.dtype == jnp.float32 else 3):  # Newton's method on the concave log Phi
        found = log_ndtr(z)
        z = z - (found - log_p) * _mills_ratio(z, found)
    return z


@_normal_of_log_cdf.defjvp
def _normal_of_log_cdf_jvp(primals, tangents):
    z = _normal_of_log_cdf(*primals)
    return z, _mills_ratio(z, log_ndtr(z)) * tangents[0]


def _mills_ratio(z: jax.Array, log_cdf: jax.Array) -> jax.Array:
    """Phi(z) / phi(z), from log Phi(z)."""
    return jnp.exp(log_cdf + 0.5 * jnp.square(z) + 0.5 * _LOG_2PI)
