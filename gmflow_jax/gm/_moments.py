"""Densities, moments and samples of a mixture."""

import math

import jax
import jax.numpy as jnp

from gmflow_jax._arguments import append_axes
from gmflow_jax._reductions import shifted_exp, sum_keeping, sum_slices
from gmflow_jax.gm._types import Gaussian, GaussianMixture, as_mixture, check_normalised, promote_mixture

_LOG_2PI = math.log(2 * math.pi)


def mean(q: GaussianMixture | Gaussian) -> jax.Array:
    """Compute the mean.

    Args:
      q: mixture over [*batch, D].

    Returns:
      [*batch, D].

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import gm
      >>> q = gm.GaussianMixture(jnp.array([[0.0], [4.0]]), jnp.log(jnp.array([0.25, 0.75])), jnp.zeros(()))
      >>> print(np.asarray(gm.mean(q)).round(3))
      [3.]
    """
    q = as_mixture(q)
    check_normalised(q)
    return weighted_mean(q)


def weighted_mean(q: GaussianMixture) -> jax.Array:
    """`mean` without promotion and checks."""
    # Not a matmul, which TPUs would compute in bfloat16.
    weights = jnp.exp(q.log_weights)
    return sum_slices(lambda k: weights[..., k, None] * q.means[..., k, :], weights.shape[-1], axis=-2)


def moment_match(q: GaussianMixture) -> Gaussian:
    """Match an isotropic Gaussian to a mixture.

    The Gaussian has the mixture's mean and its variance averaged over the D channels. The variance is not
    averaged over batch entries.

    Args:
      q: mixture over [*batch, D].

    Returns:
      Gaussian with mean [*batch, D] and var [*batch].

    Source:
      GMFlow (arXiv 2504.05304), eq. 11-12.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import gm
      >>> q = gm.GaussianMixture(jnp.array([[-1.0], [1.0]]), jnp.log(jnp.array([0.5, 0.5])), jnp.zeros(()))
      >>> matched = gm.moment_match(q)
      >>> print(np.asarray(matched.mean).round(3), np.asarray(matched.var).round(3))
      [0.] 2.0
    """
    q = as_mixture(q)
    check_normalised(q)
    m = weighted_mean(q)
    weights, (*_, size, dim) = jnp.exp(q.log_weights), q.means.shape
    square = sum_slices(
        lambda k: weights[..., k, None] * jnp.square(q.means[..., k, :] - m[..., None, :]), size, axis=-2
    )
    between = sum_slices(lambda i: square[..., i], dim, axis=-1) / dim
    return Gaussian(m, between + jnp.exp(2 * q.log_std))


def covariance(q: GaussianMixture | Gaussian) -> jax.Array:
    """Compute the full covariance matrix, [*batch, D, D]."""
    q = as_mixture(q)
    check_normalised(q)
    between = covariance_of_means(q)
    identity = jnp.eye(between.shape[-1], dtype=between.dtype)
    identity = identity.reshape((1,) * (between.ndim - 2) + identity.shape)
    return between + append_axes(jnp.exp(2 * q.log_std), 2) * identity


def covariance_of_means(q: GaussianMixture) -> jax.Array:
    """Compute the weighted covariance of the component means, [*batch, D, D], without checks."""
    delta = q.means - weighted_mean(q)[..., None, :]
    weighted = jnp.exp(q.log_weights)[..., None] * delta
    size = delta.shape[-2]
    return sum_slices(lambda k: weighted[..., k, :, None] * delta[..., k, None, :], size, axis=-3)


def log_prob(q: GaussianMixture | Gaussian, x: jax.Array) -> jax.Array:
    """Compute the log-density at x, in nats.

    Args:
      q: mixture over [*batch, D].
      x: points, [*batch, D], or [*lead, *batch, D] for several points per batch entry.

    Returns:
      [*batch], or [*lead, *batch].

    Raises:
      ValueError: if the shapes do not fit, or log_weights are not normalised.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import gm
      >>> standard_normal = gm.Gaussian(mean=jnp.zeros(2), var=jnp.ones(()))
      >>> log_density = gm.log_prob(standard_normal, jnp.array([[0.0, 0.0], [1.0, 1.0]]))
      >>> print(np.asarray(log_density).round(3))
      [-1.838 -2.838]
    """
    q, x = promote_mixture(q, x)
    check_normalised(q)
    return log_density(q, x)


def log_density(q: GaussianMixture, x: jax.Array) -> jax.Array:
    """`log_prob` without promotion and without the check that log_weights are normalised.

    Raises:
      ValueError: if the last axes of x are not those of the mixture.
    """
    event = (*q.means.shape[:-2], q.means.shape[-1])
    if x.shape[x.ndim - len(event) :] != event:
        raise ValueError(
            f"x has shape {x.shape}, but the mixture is over {event}: the last axes of x must equal "
            "the mixture's batch axes and channels. Reshape x or broadcast it explicitly."
        )
    lead = (1,) * (x.ndim - len(event))
    means = q.means.reshape(lead + q.means.shape)
    log_weights = q.log_weights.reshape(lead + q.log_weights.shape)
    log_std = q.log_std if q.log_std.ndim == 0 else q.log_std.reshape(lead + q.log_std.shape)
    return _log_density(x, means, log_weights, log_std)


@jax.custom_jvp
def _log_density(
    x: jax.Array, means: jax.Array, log_weights: jax.Array, log_std: jax.Array
) -> jax.Array:
    return _log_components(x, means, log_weights, log_std)[0]


@_log_density.defjvp
def _log_density_jvp(primals, tangents):
    # An explicit rule: the transpose of the slices in `_log_components` would be a chain of padded sums.
    x, means, _, log_std = primals
    dx, dmeans, dlog_weights, dlog_std = tangents
    value, share, square = _log_components(*primals)
    pull = (x[..., None, :] - means) * append_axes(jnp.exp(-2 * log_std), 2)
    moved = jnp.sum(share[..., None] * pull * (dmeans - dx[..., None, :]), axis=(-2, -1))
    slope = jnp.sum(share * square, axis=-1) - means.shape[-1]  # with respect to log_std
    return value, moved + jnp.sum(share * dlog_weights, axis=-1) + slope * dlog_std


def _log_components(
    x: jax.Array, means: jax.Array, log_weights: jax.Array, log_std: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the log-density, each component's share of the density, and |x - mu|^2 / var.

    The last two are [..., K].
    """
    dim, inverse_std = means.shape[-1], append_axes(jnp.exp(-log_std), 2)
    square = sum_slices(
        lambda i: jnp.square((x[..., None, i] - means[..., i]) * inverse_std), dim, axis=-1
    )
    powers, largest = shifted_exp(log_weights - 0.5 * square)
    total = sum_keeping(powers)
    value = (largest + jnp.log(total))[..., 0] - dim * (log_std + 0.5 * _LOG_2PI)
    return value, powers / total, square


def sample(key: jax.Array, q: GaussianMixture | Gaussian, num_samples: int | None = None) -> jax.Array:
    """Draw samples from a mixture.

    Args:
      key: a PRNG key.
      q: mixture over [*batch, D].
      num_samples: number of samples per batch entry; None draws one sample and adds no axis.

    Returns:
      [*batch, D], or [num_samples, *batch, D].

    Raises:
      ValueError: if num_samples is less than 1, or log_weights are not normalised.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> from gmflow_jax import gm
      >>> q = gm.GaussianMixture(jnp.array([[-3.0], [3.0]]), jnp.log(jnp.array([0.5, 0.5])), jnp.zeros(()))
      >>> x = gm.sample(jax.random.key(0), q, num_samples=1000)
      >>> x.shape, bool(abs(x.mean()) < 0.5)
      ((1000, 1), True)
    """
    q = as_mixture(q)
    check_normalised(q)
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, or None, but {num_samples} was given.")
    lead = () if num_samples is None else (num_samples,)
    component_key, normal_key = jax.random.split(key)
    shape = lead + q.log_weights.shape[:-1]
    component = jax.random.categorical(component_key, q.log_weights, axis=-1, shape=shape)
    normal = jax.random.normal(normal_key, (*shape, q.means.shape[-1]), q.means.dtype)
    ones = (1,) * len(lead)
    return select(
        GaussianMixture(
            q.means.reshape(ones + q.means.shape),
            q.log_weights.reshape(ones + q.log_weights.shape),
            q.log_std if q.log_std.ndim == 0 else q.log_std.reshape(ones + q.log_std.shape),
        ),
        component,
        normal,
    )


def select(q: GaussianMixture, component: jax.Array, normal: jax.Array) -> jax.Array:
    """Make a sample from given random draws.

    Args:
      q: mixture over [*batch, D].
      component: index of the component, [*batch].
      normal: standard normal, [*batch, D].

    Returns:
      [*batch, D].
    """
    # A one-hot sum, since a gather does not fuse with the arithmetic around it on accelerators.
    one_hot = jax.nn.one_hot(component, q.means.shape[-2], dtype=q.means.dtype)
    size = one_hot.shape[-1]
    center = sum_slices(lambda k: one_hot[..., k, None] * q.means[..., k, :], size, axis=-2)
    return center + append_axes(jnp.exp(q.log_std), 1) * normal


def mean_of_component(q: GaussianMixture, component: jax.Array) -> jax.Array:
    """Select the mean of component[...] for each batch entry, [*batch, D], without rounding or gradient."""
    size = q.means.shape[-2]
    chosen, means = jax.nn.one_hot(component, size, dtype=bool), jax.lax.stop_gradient(q.means)
    return sum_slices(lambda k: jnp.where(chosen[..., k, None], means[..., k, :], 0.0), size, axis=-2)


def kl_divergence(
    key: jax.Array, p: GaussianMixture | Gaussian, q: GaussianMixture | Gaussian, num_samples: int = 32
) -> jax.Array:
    """Estimate the Kullback-Leibler divergence KL(p || q) by Monte Carlo.

    Args:
      key: a PRNG key.
      p: mixture over [*batch, D], from which samples are drawn.
      q: mixture over [*batch, D].
      num_samples: number of samples per batch entry.

    Returns:
      [*batch], in nats.
    """
    x = sample(key, p, num_samples)
    return jnp.mean(log_prob(p, x) - log_prob(q, x), axis=0)


def entropy(key: jax.Array, q: GaussianMixture | Gaussian, num_samples: int = 32) -> jax.Array:
    """Estimate the differential entropy by Monte Carlo.

    Args:
      key: a PRNG key.
      q: mixture over [*batch, D].
      num_samples: number of samples per batch entry.

    Returns:
      [*batch], in nats.
    """
    return -jnp.mean(log_prob(q, sample(key, q, num_samples)), axis=0)
