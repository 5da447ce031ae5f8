"""The map between a 1-D mixture of unit variances and the standard normal, z = Phi^-1(F(x)), and its inverse.

Tail probabilities are computed relative to their own magnitude, so nothing is clipped: z is accurate even
where F(x) rounds to 0 or 1.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from gmflow_jax._reductions import fold_slices, shifted_exp, sum_keeping, sum_slices

_SQRT_2PI = math.sqrt(2 * math.pi)
_LOG_2PI = math.log(2 * math.pi)
_LOG_2 = math.log(2)
# Every two iterations halve the bracket or the step. 100 halvings resolve any float32 or float64.
MAX_ITERATIONS = 200


@jax.custom_jvp
def to_normal(x: jax.Array, means: jax.Array, log_weights: jax.Array) -> jax.Array:
    """Compute z = Phi^-1(F(x)) for the mixture CDF F(x) = sum_k w_k Phi(x - mu_k).

    Args:
      x: [...].
      means: [K, ...].
      log_weights: normalised, [K, ...].

    Returns:
      z, [...].
    """
    u = x[None] - means
    # Use the tail on the side of x where the smaller share of the weights lies: it is at most 3/4.
    below = _total(jnp.where(u > 0, jnp.exp(log_weights), 0.0))
    side = jnp.where(below > 0.5, 1.0, -1.0).astype(x.dtype)
    # Estimates of the components' log tail probabilities, up to a factor 2 and the Mills ratio.
    bounds = log_weights - 0.5 * jnp.square(jnp.maximum(side[None] * u, 0.0))
    largest = shifted_exp(bounds, axis=0)[1][0]
    logits = log_weights - largest[None]
    tail, *_ = _tail(u, logits, _finite_exp(logits), side)
    return side * _normal_of_log_tail(largest + jnp.log(tail))[0]


@to_normal.defjvp
def _to_normal_jvp(primals, tangents):
    z = to_normal(*primals)
    dx, dmeans, dlog_weights = tangents
    log_slope, share, side, log_tails = _derivatives(z, *primals)
    dz = jnp.exp(-log_slope) * (dx - _total(share * dmeans))
    return z, dz - side * _total(jnp.exp(log_tails) * dlog_weights)


def from_normal(
    z: jax.Array,
    means: jax.Array,
    log_weights: jax.Array,
    start: jax.Array | None = None,
    max_iterations: int | jax.Array = MAX_ITERATIONS,
) -> jax.Array:
    """Compute the inverse of `to_normal` in x: the quantile of the mixture at Phi(z).

    Applies Halley's method to z(x) inside a bracket. It bisects instead where a step would be longer than
    half of the step before the previous one, so it always converges. Gradients come from the implicit
    function theorem.

    Args:
      z: [...].
      means: [K, ...].
      log_weights: normalised, [K, ...].
      start: first guess of x, [...]; no gradient is taken of it. None computes one.
      max_iterations: a small number gives a rough result.

    Returns:
      x, [...].
    """
    if start is None:
        start = guess_quantile(*jax.lax.stop_gradient((z, means, log_weights)))
    return _from_normal(z, means, log_weights, jax.lax.stop_gradient(start), max_iterations)


@jax.custom_jvp
def _from_normal(z, means, log_weights, start, max_iterations) -> jax.Array:
    low, high = _bracket(z, means)
    side, eps = jnp.where(z > 0, 1.0, -1.0).astype(z.dtype), jnp.finfo(z.dtype).eps
    log_target = _log_tail(jnp.abs(z))
    logits = log_weights - log_target[None]
    weights = _finite_exp(logits)

    def unfinished(carry):
        *_, active, iteration = carry
        return (iteration < max_iterations) & jnp.any(active)

    def improve(carry):
        step, last_step, x, low, high, active, iteration = carry
        found, move = _halley(z, x, means, logits, weights, side, log_target)
        low, high = jnp.where(found < z, x, low), jnp.where(found < z, high, x)
        # The method is of order 3: the error after a step is proportional to the third power of the step.
        close = jnp.abs(move) <= 0.3 * eps ** (1 / 3) + 2 * eps * jnp.abs(x)
        fits = (jnp.abs(move) <= 0.5 * jnp.abs(last_step)) & (x + move >= low) & (x + move <= high)
        new = jnp.where(active, jnp.where(close | fits, x + move, low + 0.5 * (high - low)), x)
        unresolved = jnp.abs(new - x) > eps * (jnp.abs(x) + 1)  # False for NaN, so that the loop ends
        return new - x, step, new, low, high, active & ~close & unresolved, iteration + 1

    start, everywhere = jnp.clip(start, low, high), jnp.full_like(z, True, bool)
    carry = (high - low, high - low, start, low, high, everywhere, jnp.int32(0))
    return jax.lax.while_loop(unfinished, improve, carry)[2]


@_from_normal.defjvp
def _from_normal_jvp(primals, tangents):
    z, means, log_weights, start, max_iterations = primals
    dz, dmeans, dlog_weights, *_ = tangents
    x = _from_normal(z, means, log_weights, start, max_iterations)
    log_slope, share, side, log_tails = _derivatives(z, x, means, log_weights)
    of_weights = side * _total(_finite_exp(log_slope[None] + log_tails) * dlog_weights)
    return x, _finite_exp(log_slope) * dz + _total(share * dmeans) + of_weights


def _bracket(z, means) -> tuple[jax.Array, jax.Array]:
    """Bracket the quantile: component k has its own at mu_k + z, and the mixture's lies between these."""
    ends = (jnp.minimum, jnp.maximum)
    smallest, largest = (fold_slices(end, means.__getitem__, len(means), axis=0)[0] for end in ends)
    return smallest + z, largest + z


def guess_quantile(z, means, log_weights) -> jax.Array:
    """Guess the quantile.

    Components far apart: the quantile within the component that contains it, if components are ordered by
    mean. Overlapping components: the quantile of the Gaussian with the mixture's mean and variance.
    """
    weights = jnp.exp(log_weights)

    def weight_below(k):  # the weight of component k, for those components whose mean is larger
        return jnp.where(means[k, None] < means[None], weights[k, None], 0.0)

    # If the components did not overlap: the share of each that lies below the quantile. It is in [0, 1) for
    # the component that contains the quantile.
    tail = jnp.exp(_log_tail(jnp.abs(z)))
    target = jnp.where(z > 0, 1 - tail, tail)
    shares = (target[None] - sum_slices(weight_below, means.shape[0], axis=0)) / weights
    chosen = (shares >= 0) & (shares < 1)
    share = jnp.clip(_total(jnp.where(chosen, shares, 0.0)), 1e-6, 1 - 1e-6)
    within = _rough_normal(jnp.log(jnp.minimum(share, 1 - share)))
    narrow = _total(jnp.where(chosen, means, 0.0)) + jnp.where(share > 0.5, within, -within)
    mean = _total(weights * means)
    var = _total(weights * jnp.square(means - mean[None]))
    wide = mean + z * jnp.sqrt(var + 1)
    return jnp.where(jnp.any(chosen, axis=0) & (var > 1), narrow, wide)


def _halley(z, x, means, logits, weights, side, log_target) -> tuple[jax.Array, jax.Array]:
    """Return z(x) and the step of Halley's method towards z.

    Tail probabilities are in units of exp(log_target), the tail beyond z.
    """
    u = x[None] - means
    tail, density, moment = _tail(u, logits, weights, side)
    # Where the tail underflows, only the sign of the step matters.
    found, log_smaller = _normal_of_log_tail(log_target + jnp.log(jnp.maximum(tail, 1e-37)))
    found = side * found
    # phi(z) is the smaller tail divided by its Mills ratio.
    smaller = _finite_exp(log_smaller - log_target)
    slope = _SQRT_2PI * smaller / (density * _mills_ratio(jnp.abs(found)))
    newton = jnp.where(found == z, 0.0, (z - found) * slope)
    bend = found / slope - moment / density
    return found, newton / jnp.clip(1 + 0.5 * newton * bend, 0.5, 2.0)


def _tail(u, logits, weights, side) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Compute the mixture's probability beyond x on one side, and two sums for its derivatives.

    Args:
      u: x - mu_k, [K, ...].
      logits: log-weights up to a constant; it scales all results, [K, ...].
      weights: `_finite_exp` of logits.
      side: 1 for the probability above x, -1 for that below, [...].

    Returns:
      The probability, and the sums over k of w_k exp(-u_k^2 / 2) and w_k exp(-u_k^2 / 2) u_k; all [...].
    """
    density = _finite_exp(logits - 0.5 * jnp.square(u))
    smaller = density * (_mills_ratio(jnp.abs(u)) / _SQRT_2PI)
    # A component's mass beyond x is its smaller tail, or the rest, which is at least half of its weight. The
    # bound holds even where `_finite_exp` has cut an exponent.
    tails = jnp.where(side[None] * u > 0, smaller, jnp.maximum(weights - smaller, 0.5 * weights))
    return _total(tails), _total(density), _total(density * u)


def _derivatives(z, x, means, log_weights):
    """Compute the quantities that the derivatives of both directions need; all finite, or 0 for zero density.

    Returns:
      log(dx/dz), [...]; the components' shares of the density, [K, ...]; the tail in which z lies (1 or -1),
      [...]; the log of the components' probabilities in that tail, divided by phi(z), [K, ...].
    """
    u = x[None] - means
    powers, largest = shifted_exp(log_weights - 0.5 * jnp.square(u), axis=0)
    density = sum_keeping(powers, axis=0)
    log_phi = -0.5 * jnp.square(z)
    log_slope = log_phi - (largest + jnp.log(density))[0]
    # Derivative of the tail in which z lies with respect to the weights. Both tails give the same derivative
    # if the weights stay normalised.
    side = jnp.where(z > 0, 1.0, -1.0).astype(x.dtype)
    log_tails = log_weights + log_ndtr(-side[None] * u) - (log_phi - 0.5 * _LOG_2PI)[None]
    return log_slope, powers / density, side, log_tails


def _total(values: jax.Array) -> jax.Array:
    return sum_keeping(values, axis=0)[0]


def _finite_exp(x: jax.Array) -> jax.Array:
    return jnp.exp(jnp.minimum(x, 60.0))  # exp(89) overflows float32


def _log_tail(z: jax.Array) -> jax.Array:
    """Return log Phi(-z) for z >= 0."""
    return jnp.log(_mills_ratio(z)) - 0.5 * (jnp.square(z) + _LOG_2PI)


def _normal_of_log_tail(log_p: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Solve log Phi(-z) = log_p for z. Also return the log of the smaller of Phi(-z) and Phi(z)."""
    complement = jnp.log(-jnp.expm1(jnp.minimum(log_p, -1e-7)))
    upper = log_p <= -_LOG_2
    smaller = jnp.where(upper, log_p, jnp.minimum(complement, -_LOG_2))
    z = _rough_normal(smaller)
    for _ in range(1 if z.dtype == jnp.float32 else 3):  # Newton's method on the concave log Phi
        z = jnp.maximum(z, 0.0)
        z = z - (smaller - _log_tail(z)) * _mills_ratio(z)
    return jnp.where(upper, z, -z), smaller


def _rough_normal(log_p: jax.Array) -> jax.Array:
    """Solve log Phi(-z) = log_p for z >= 0, within 5e-4 (Hastings; Abramowitz and Stegun 26.2.23)."""
    s = jnp.sqrt(-2 * log_p)
    top = 2.515517 + s * (0.802853 + s * 0.010328)
    return s - top / (1 + s * (1.432788 + s * (0.189269 + s * 0.001308)))


def _mills_ratio(u: jax.Array) -> jax.Array:
    """Compute Phi(-u) / phi(u) for u >= 0, within 4e-7 in float32 and 1e-14 in float64.

    Evaluates a Chebyshev series in 1 - r for the ratio to r = 6 / (u + 3), which maps [0, inf) to (0, 2].
    This needs one division and no case distinction, and is faster than JAX's error functions.
    """
    degree = 10 if u.dtype == jnp.float32 else 22
    r = 6 / (u + 3)
    value = 0.0
    for coefficient in np.polynomial.chebyshev.cheb2poly(_MILLS_SERIES[: degree + 1])[::-1]:
        value = value * (1 - r) + float(coefficient)
    return value * r


# Fitted to exp(u^2 / 2) erfc(u / sqrt(2)) sqrt(pi / 2) (u + 3) / 6 in float64.
_MILLS_SERIES = (
    0.3511098545557974, -0.2259825953711029, 0.04602689870730205, -0.0041502066150327374,
    -0.00048335923803393343, 0.00014232546289144653, 8.856721299269109e-06, -4.901239737342317e-06,
    -4.101041582190827e-07, 1.8286760045844565e-07, 2.8926293025542845e-08, -6.202714833588662e-09,
    -2.0222406080360336e-09, 9.204473096665949e-11, 1.2111968209907266e-10, 1.2004626232022267e-11,
    -5.228867945227107e-12, -1.6030746484198706e-12, 4.0493953226563674e-14, 1.1115298761513837e-13,
    1.9588695337923705e-14, -3.4689228940455673e-15, -2.190760084391862e-15,
)
