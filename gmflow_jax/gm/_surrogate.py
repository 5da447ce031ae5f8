"""The surrogate of a mixture: the Gaussian matched to it, with one variance per sample."""

import jax
import jax.numpy as jnp

from gmflow_jax._meshes import broadcast_like
from gmflow_jax.gm._moments import moment_match
from gmflow_jax.gm._types import Gaussian, GaussianMixture


def sample_mean(x: jax.Array, sample_axes: tuple[int, ...] | None, event_axes: int) -> jax.Array:
    """Average over the axes of one sample, keeping them with size 1.

    Args:
      x: [*batch], or [*batch, D] with event_axes = 1.
      sample_axes: batch axes that belong to one sample; None means all but the first.
      event_axes: 0, or 1 if x has a channel axis, which is averaged and dropped.

    Returns:
      An array of the rank of `*batch`.
    """
    axes = batch_axes(sample_axes, x.ndim - event_axes)
    x = jnp.mean(x, axis=-1) if event_axes else x
    return jnp.mean(x, axis=axes, keepdims=True) if axes else x


def batch_axes(sample_axes: tuple[int, ...] | None, rank: int) -> tuple[int, ...]:
    """Return the axes of one sample as numbers from 0; None means all of `rank` axes but the first."""
    return tuple(range(1, rank) if sample_axes is None else (_axis(a, rank) for a in sample_axes))


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(
            f"sample_axes names axis {axis}, but a mixture with {rank} batch axes has only axes "
            f"{-rank} to {rank - 1}. The channel and component axes do not count."
        )
    return axis % rank


def surrogate_of(q: GaussianMixture, sample_axes: tuple[int, ...] | None) -> Gaussian:
    """Match a Gaussian to q, with its variance averaged over each sample."""
    matched = moment_match(q)
    var = broadcast_like(matched.var, matched.mean[..., 0])
    return Gaussian(matched.mean, sample_mean(var, sample_axes, event_axes=0))
