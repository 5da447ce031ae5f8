"""The two guidance formulas: probabilistic guidance, and classifier-free guidance."""

import dataclasses

import jax
import jax.numpy as jnp

from gmflow_jax._arguments import append_axes, check_same_shape, promote
from gmflow_jax._meshes import broadcast_like
from gmflow_jax._safe import safe_divide, safe_sqrt
from gmflow_jax.gm._factor import Factor
from gmflow_jax.gm._moments import weighted_mean
from gmflow_jax.gm._surrogate import sample_mean, surrogate_of
from gmflow_jax.gm._tilt import centered, tilt_unchecked
from gmflow_jax.gm._types import Gaussian, GaussianMixture, as_mixture, normalised
from gmflow_jax.guidance._methods import check_guidance_scale

# Lower bound of the mean square of the difference of the means. It is part of the method: guidance fades out
# where the conditional and the unconditional prediction agree.
_MIN_SQUARE = 1e-6

@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guided:
    """A guided prediction, and its parts, from which solvers of order 2 guide and extrapolate in one step.

    Attributes:
      mixture: the guided mixture over x_0.
      base: the conditional mixture before guidance.
      surrogate: Gaussian matched to `base`, with its variance averaged over each sample.
      bias: the amount by which guidance shifts the surrogate's mean, [*batch, D].
      scale: guidance scale w at the rank of `*batch`; 0 outside the guidance interval.
    """

    mixture: GaussianMixture
    base: GaussianMixture
    surrogate: Gaussian
    bias: jax.Array
    scale: jax.Array

    @property
    def mask(self) -> Factor:
        """The ratio of Gaussians by which `base` was multiplied."""
        return _mask(self.surrogate, self.bias, self.scale)


def _difference(
    cond: jax.Array, uncond: jax.Array, orthogonal: float, sample_axes: tuple[int, ...] | None
) -> jax.Array:
    """Return cond - uncond without the share `orthogonal` of its component parallel to cond."""
    d = cond - uncond
    along = sample_mean(d * cond, sample_axes, event_axes=1)
    norm = sample_mean(jnp.square(cond), sample_axes, event_axes=1)
    return d - append_axes(orthogonal * safe_divide(along, norm), 1) * cond


def probabilistic_guidance(
    cond: GaussianMixture | Gaussian,
    uncond: GaussianMixture | Gaussian,
    scale: jax.Array | float,
    orthogonal: float = 1.0,
    sample_axes: tuple[int, ...] | None = None,
) -> Guided:
    r"""Guide a conditional mixture by reweighting it with a ratio of Gaussians.

    The conditional mixture is multiplied by

    $$\mathcal{N}(m_c + w s_c d, (1 - w^2) s_c^2) / \mathcal{N}(m_c, s_c^2),$$

    where $m_c$ and $s_c^2$ are the mean and variance of the Gaussian matched to it, $w$ is the scale, and $d$
    is the difference $m_c - m_u$ of the conditional and unconditional means, normalised to unit mean square
    over each sample.

    Args:
      cond: conditional mixture over x_0, means [B, ..., K, D].
      uncond: unconditional mixture over x_0, means [B, ..., K, D].
      scale: w in [0, 1); a scalar, [B], or an array of the rank of `*batch`. 0 means no guidance.
      orthogonal: share of the component of d parallel to m_c that is removed, 0 to 1.
      sample_axes: axes of one sample, over which variances and mean squares are taken: (1, 2) for
        [B, H, W, D]. None takes all batch axes but the first.

    Returns:
      `Guided`; its field `mixture` is the guided mixture.

    Raises:
      ValueError: if scale is outside [0, 1), shapes do not fit, or log_weights that are known are not
        normalised. Traced ones are normalised.

    Source:
      GMFlow (arXiv 2504.05304), eq. 7-8; Sadat et al. 2025 (arXiv 2410.02416) for the orthogonal projection.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import gm, guidance
      >>> cond = gm.Gaussian(jnp.array([[1.0, 0.0]]), jnp.ones(1))
      >>> uncond = gm.Gaussian(jnp.array([[1.0, -1.0]]), jnp.ones(1))
      >>> guided = guidance.probabilistic_guidance(cond, uncond, scale=0.5)
      >>> print(np.asarray(gm.mean(guided.mixture)).round(3))  # away from the unconditional mean
      [[1.    0.707]]
    """
    check_guidance_scale(scale)
    (cond, uncond), scale = promote((as_mixture(cond), as_mixture(uncond)), scale)
    cond, uncond = normalised(cond), normalised(uncond)
    surrogate = surrogate_of(cond, sample_axes)
    uncond_mean = weighted_mean(uncond)
    check_same_shape(cond_mean=surrogate.mean, uncond_mean=uncond_mean)
    scale = expand_scale(scale, surrogate.mean.shape[:-1])
    d = _difference(surrogate.mean, uncond_mean, orthogonal, sample_axes)
    square = sample_mean(jnp.square(d), sample_axes, event_axes=1)
    length = scale * safe_sqrt(surrogate.var / jnp.maximum(square, _MIN_SQUARE))
    bias = append_axes(length, 1) * d
    mixture = tilt_unchecked(centered(cond, surrogate.mean), *_mask(surrogate, bias, scale)[1:])
    return Guided(mixture, cond, surrogate, bias, broadcast_like(scale, surrogate.var))


def _mask(surrogate: Gaussian, bias: jax.Array, scale: jax.Array) -> Factor:
    shrink = jnp.square(scale)
    return Factor(surrogate.mean, bias, shrink, (1 - shrink) * surrogate.var)


def classifier_free_guidance(
    cond: GaussianMixture | jax.Array,
    uncond: GaussianMixture | jax.Array,
    scale: jax.Array | float,
    orthogonal: float = 0.0,
    sample_axes: tuple[int, ...] | None = None,
) -> GaussianMixture | jax.Array:
    """Apply classifier-free guidance, a baseline: extrapolate the mean to m_c + (scale - 1) (m_c - m_u).

    Predictions may be of x_0 or of the velocity. All components of a mixture are shifted by the same amount.

    Args:
      cond: conditional prediction, a GaussianMixture with means [B, ..., K, D] or an array [B, ..., D].
      uncond: unconditional prediction, likewise.
      scale: a scalar, [B], or an array of the rank of `*batch`. 1 means no guidance.
      orthogonal: share of the component of m_c - m_u parallel to m_c that is removed, 0 to 1.
      sample_axes: axes of one sample, over which this projection is computed: (1, 2) for [B, H, W, D]. None
        takes all batch axes but the first.

    Returns:
      The guided prediction, of the type of `cond`.

    Raises:
      ValueError: if shapes do not fit.

    Source:
      Ho and Salimans 2022 (arXiv 2207.12598).
    """
    (cond, uncond), scale = promote((cond, uncond), scale)
    cond_mean, uncond_mean = _mean(cond), _mean(uncond)
    check_same_shape(cond_mean=cond_mean, uncond_mean=uncond_mean)
    gain = append_axes(expand_scale(scale, cond_mean.shape[:-1]) - 1, 1)
    shift = gain * _difference(cond_mean, uncond_mean, orthogonal, sample_axes)
    if isinstance(cond, GaussianMixture):
        return GaussianMixture(cond.means + shift[..., None, :], cond.log_weights, cond.log_std)
    return cond + shift


def _mean(prediction: GaussianMixture | jax.Array) -> jax.Array:
    is_mixture = isinstance(prediction, GaussianMixture)
    return weighted_mean(normalised(prediction)) if is_mixture else prediction


def expand_scale(scale: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    """Reshape a guidance scale so that it broadcasts with the batch axes.

    Args:
      scale: a scalar, [B], or an array of the rank of `batch`.
      batch: sizes of the batch axes.

    Returns:
      A scalar, or an array of the rank of the batch axes.

    Raises:
      ValueError: if scale has another shape.
    """
    if scale.ndim == len(batch) and all(n in (1, m) for n, m in zip(scale.shape, batch, strict=True)):
        return scale
    if scale.ndim == 0 or scale.shape == batch[:1]:
        return append_axes(scale, len(batch) - 1)
    raise ValueError(
        f"scale has shape {scale.shape}, which does not fit the batch axes {batch}: a guidance scale is a "
        "scalar, has one value for each entry of the leading batch axis, or has as many axes as the batch, "
        "each of size 1 or the batch's size."
    )
