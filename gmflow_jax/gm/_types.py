"""The two distributions of the library: plain containers, channels last, component before channel."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gmflow_jax._arguments import concrete, promote
from gmflow_jax._safe import safe_log


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    """One isotropic Gaussian mixture for each entry of the batch axes.

    Attributes:
      means: component means, [*batch, K, D].
      log_weights: normalised log-weights, [*batch, K]: logsumexp over the last axis is 0.
      log_std: log standard deviation shared by the components: a scalar, or the rank of `*batch` and
        broadcastable to it ([B, 1, 1] for images). -inf means point masses.
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
      var: variance of each channel: a scalar, or the rank of `*batch` and broadcastable to it.
    """

    mean: jax.Array
    var: jax.Array


def as_mixture(q: GaussianMixture | Gaussian) -> GaussianMixture:
    """Return `q` as a checked mixture of one float dtype; a Gaussian has K = 1."""
    return promote_mixture(q)[0]


def promote_mixture(
    q: GaussianMixture | Gaussian, *arrays: ArrayLike
) -> tuple[GaussianMixture, *tuple[jax.Array, ...]]:
    """Return `as_mixture(q)` and `arrays`, all in one float dtype."""
    if not isinstance(q, (GaussianMixture, Gaussian)):
        raise TypeError(
            f"A GaussianMixture or a Gaussian is needed here, but {type(q).__name__} was given. "
            "Wrap the arrays: GaussianMixture(means, log_weights, log_std)."
        )
    q, *promoted = promote(q, *arrays)
    if isinstance(q, Gaussian):
        _check_scale_shape(q.var, q.mean.shape[:-1], "var")
        log_std = 0.5 * safe_log(q.var)
        q = GaussianMixture(q.mean[..., None, :], jnp.zeros_like(q.mean[..., :1]), log_std)
    check_mixture(q)
    return (q, *promoted)


def check_mixture(q: GaussianMixture) -> None:
    """Refuse a mixture whose arrays do not fit each other."""
    means, log_weights = q.means.shape, q.log_weights.shape
    if len(means) < 2 or log_weights != means[:-1]:
        raise ValueError(
            f"A mixture has means [*batch, K, D] and log_weights [*batch, K], but means have shape "
            f"{means} and log_weights {log_weights}. Put the component axis before the channel axis."
        )
    _check_scale_shape(q.log_std, means[:-2], "log_std")


def _check_scale_shape(value: jax.Array, batch: tuple[int, ...], name: str) -> None:
    fits = value.ndim == 0 or (
        value.ndim == len(batch)
        and all(n in (1, m) for n, m in zip(value.shape, batch, strict=True))
    )
    if not fits:
        raise ValueError(
            f"{name} has shape {value.shape}, which does not broadcast to the batch axes {batch}. "
            f"Pass a scalar, or {len(batch)} axes of which each is 1 or the batch's size (a value "
            "per image is [B, 1, 1])."
        )


def check_normalised(q: GaussianMixture) -> None:
    """Refuse raw logits, where the values are known."""
    log_weights = concrete(q.log_weights)
    if log_weights is None:
        return
    total = np.exp(log_weights.astype(np.float64)).sum(-1)
    # Wide enough for half-precision inputs and for finite differences; raw logits miss it by far.
    if not np.allclose(total, 1.0, atol=0.05):
        raise ValueError(
            f"log_weights must be normalised over their last axis, but their weights sum to between "
            f"{total.min():.3g} and {total.max():.3g}. Apply jax.nn.log_softmax over the component "
            "axis."
        )
