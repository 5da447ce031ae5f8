"""Products of a mixture with Gaussians, ratios of Gaussians, and other mixtures."""

import jax
import jax.numpy as jnp

from gmflow_jax._arguments import append_axes, promote
from gmflow_jax._safe import safe_divide, safe_log
from gmflow_jax.gm._factor import as_ratio
from gmflow_jax.gm._tilt import tilt
from gmflow_jax.gm._types import Gaussian, GaussianMixture, check_mixture


def multiply(
    q: GaussianMixture | Gaussian, g: Gaussian, power: jax.Array | float = 1.0
) -> GaussianMixture:
    """Multiply a mixture by a power of a Gaussian, q * g**power, and renormalise.

    Args:
      q: mixture (or Gaussian, K = 1) over [*batch, D].
      g: Gaussian over [*batch, D]. An infinite variance leaves q as it is.
      power: a scalar or an array of the rank of `*batch`. A negative power divides by g; the result must
        be normalisable: g.var + power * variance > 0.

    Returns:
      The product, with the K of q.

    Raises:
      ValueError: if shapes do not fit, or the product cannot be normalised.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import gm
      >>> prior = gm.Gaussian(jnp.zeros(1), jnp.ones(()))
      >>> likelihood = gm.Gaussian(jnp.array([2.0]), jnp.ones(()))
      >>> q = gm.multiply(prior, likelihood)
      >>> print(np.asarray(gm.mean(q)).round(3), np.asarray(gm.moment_match(q).var).round(3))
      [1.] 0.5
    """
    g, power = promote(g, power)
    precision, scale = as_ratio(g.var)
    return tilt(q, jnp.zeros_like(g.mean), power * precision, scale, center=g.mean)


def reweight(q: GaussianMixture, numerator: Gaussian, denominator: Gaussian) -> GaussianMixture:
    """Multiply a mixture by a ratio of Gaussians, q * numerator / denominator, and renormalise.

    Exact for equal Gaussians (q is unchanged) and for a numerator of zero variance.

    Args:
      q: mixture over [*batch, D].
      numerator: Gaussian over [*batch, D].
      denominator: Gaussian over [*batch, D].

    Returns:
      The reweighted mixture, with the same K.

    Raises:
      ValueError: if shapes do not fit, or the result cannot be normalised.

    Source:
      GMFlow (arXiv 2504.05304), the Gaussian masks of eq. 8 and eq. 14.
    """
    n, d = promote(numerator, denominator)
    return tilt(q, n.mean - d.mean, (d.var - n.var) / d.var, scale=n.var, center=d.mean)


def product(p: GaussianMixture, q: GaussianMixture) -> GaussianMixture:
    """Multiply two mixtures and renormalise.

    Args:
      p: mixture with K_p components over [*batch, D].
      q: mixture with K_q components over [*batch, D].

    Returns:
      Mixture with K_p * K_q components. The product of components i of p and j of q has index i * K_q + j.

    Raises:
      ValueError: if p and q differ in batch axes or channels.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import gm
      >>> q = gm.GaussianMixture(jnp.array([[-1.0], [1.0]]), jnp.log(jnp.array([0.5, 0.5])), jnp.zeros(()))
      >>> print(np.asarray(gm.product(q, q).means[:, 0]).round(3))
      [-1.  0.  0.  1.]
    """
    p, q = promote(p, q)
    check_mixture(p)
    check_mixture(q)
    batch, dim = p.means.shape[:-2], p.means.shape[-1]
    if q.means.shape[:-2] != batch or q.means.shape[-1] != dim:
        raise ValueError(
            f"The product needs two mixtures over the same space, but their means have shapes "
            f"{p.means.shape} and {q.means.shape}. Only the component axis may differ."
        )
    var_p, var_q = jnp.exp(2 * p.log_std), jnp.exp(2 * q.log_std)
    total = var_p + var_q
    share = append_axes(safe_divide(var_p, total, otherwise=0.5), 3)
    delta = q.means[..., None, :, :] - p.means[..., :, None, :]
    means = p.means[..., :, None, :] + share * delta
    overlap = safe_divide(jnp.sum(jnp.square(delta), axis=-1), append_axes(total, 2))
    log_weights = p.log_weights[..., :, None] + q.log_weights[..., None, :] - 0.5 * overlap
    log_weights = jax.nn.log_softmax(log_weights.reshape(*batch, -1), axis=-1)
    log_std = q.log_std + 0.5 * safe_log(safe_divide(var_p, total))
    return GaussianMixture(means.reshape(*batch, -1, dim), log_weights, log_std)
