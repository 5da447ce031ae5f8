"""The distributions of the library, as plain dataclasses. The channel axis is last, components before it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gmflow_jax._arguments import concrete, promote
from gmflow_jax._reductions import shifted_exp, sum_keeping
from gmflow_jax._safe import safe_log

# Logarithms of summed weights below this are rounding, which `normalised` leaves alone.
_ROUNDING = 1e-4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    """One mixture of isotropic Gaussians for each entry of the batch axes.

    All components of a mixture share their standard deviation. The class is a pytree.

    Attributes:
      means: component means, [*batch, K, D].
      log_weights: normalised log-weights, [*batch, K]: logsumexp over the last axis is 0.
      log_std: log standard deviation of the components: a scalar, or an array of the rank of `*batch`
        that broadcasts to it ([B, 1, 1] for images). -inf makes the components point masses.

    Example:
      A batch of 4 mixtures of K = 2 components over D = 3 channels:

      >>> import jax
      >>> import jax.numpy as jnp
      >>> from gmflow_jax import gm
      >>> q = gm.GaussianMixture(
      ...     means=jnp.zeros((4, 2, 3)),
      ...     log_weights=jax.nn.log_softmax(jnp.zeros((4, 2))),
      ...     log_std=jnp.zeros((4,)),
      ... )
      >>> gm.mean(q).shape
      (4, 3)
    """

    means: jax.Array
    log_weights: jax.Array
    log_std: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Gaussian:
    """One isotropic Gaussian for each entry of the batch axes.

    Attributes:
      mean: [*batch, D].
      var: variance of each channel: a scalar, or an array of the rank of `*batch` that broadcasts to it.
    """

    mean: jax.Array
    var: jax.Array


def as_mixture(q: GaussianMixture | Gaussian) -> GaussianMixture:
    """Check shapes and promote `q` to one float dtype. A Gaussian becomes a mixture with K = 1."""
    return promote_mixture(q)[0]


def promote_mixture(
    q: GaussianMixture | Gaussian, *arrays: ArrayLike
) -> tuple[GaussianMixture, *tuple[jax.Array, ...]]:
    """Promote a mixture and arrays to one float dtype.

    Returns:
      The mixture, as from `as_mixture`, followed by the arrays.

    Raises:
      TypeError: if q is neither a GaussianMixture nor a Gaussian.
      ValueError: if the shapes of its arrays do not fit each other.
    """
    if not isinstance(q, (GaussianMixture, Gaussian)):
        raise TypeError(
            f"A GaussianMixture or a Gaussian is needed here, but {type(q).__name__} was given. "
            "Wrap the arrays: GaussianMixture(means, log_weights, log_std)."
        )
    q, *promoted = promote(q, *arrays)
    if isinstance(q, Gaussian):
        check_scale_shape(q.var, q.mean.shape[:-1], "var")
        log_std = 0.5 * safe_log(q.var)
        q = GaussianMixture(q.mean[..., None, :], jnp.zeros_like(q.mean[..., :1]), log_std)
    elif type(q) is not GaussianMixture:  # what a subclass carries describes its own arrays, not new ones
        q = GaussianMixture(q.means, q.log_weights, q.log_std)
    check_mixture(q)
    return (q, *promoted)


def check_mixture(q: GaussianMixture) -> None:
    """Raise unless the shapes of the mixture's arrays fit each other."""
    means, log_weights = q.means.shape, q.log_weights.shape
    if len(means) < 2 or log_weights != means[:-1]:
        raise ValueError(
            f"A mixture has means [*batch, K, D] and log_weights [*batch, K], but means have shape "
            f"{means} and log_weights {log_weights}. Put the component axis before the channel axis."
        )
    check_scale_shape(q.log_std, means[:-2], "log_std")


def check_scale_shape(value: jax.Array, batch: tuple[int, ...], name: str) -> None:
    """Raise unless `value`, a log_std or a var, is a scalar or broadcasts to the batch axes at their rank."""
    fits = value.ndim == 0 or (
        value.ndim == len(batch)
        and all(n in (1, m) for n, m in zip(value.shape, batch, strict=True))
    )
    if not fits:
        raise ValueError(
            f"{name} has shape {value.shape}, which does not broadcast to the batch axes {batch}. "
            f"Pass a scalar, or an array with {len(batch)} axes, each of size 1 or the batch's size (one "
            "value per image is [B, 1, 1])."
        )


def normalised(q: GaussianMixture) -> GaussianMixture:
    """Normalise log-weights that are raw logits, if they are traced; refuse them if they are known.

    Weights whose sum is 1 within 1e-4 are returned as they are, bit by bit. Known weights are refused if it
    differs from 1 by more than 0.05, which half precision does not.

    Raises:
      ValueError: if log_weights are known and are not normalised.
    """
    check_normalised(q)
    powers, largest = shifted_exp(q.log_weights)
    total = largest + safe_log(sum_keeping(powers))
    excess = jnp.where((jnp.abs(total) > _ROUNDING) & jnp.isfinite(total), total, 0.0)
    return dataclasses.replace(q, log_weights=q.log_weights - excess)


def check_normalised(q: GaussianMixture) -> None:
    """Raise if log_weights are not normalised, as raw logits are not. Traced values are not checked."""
    log_weights = concrete(q.log_weights)
    if log_weights is None:
        return
    total = np.exp(log_weights.astype(np.float64)).sum(-1)
    # The tolerance allows half-precision inputs and finite differences. Raw logits exceed it by far.
    if not np.allclose(total, 1.0, atol=0.05):
        raise ValueError(
            f"log_weights must be normalised over their last axis, but their weights sum to between "
            f"{total.min():.3g} and {total.max():.3g}. Apply jax.nn.log_softmax over the component "
            "axis."
        )
