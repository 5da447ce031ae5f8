"""Guidance towards a condition: GMFlow's probabilistic guidance, and classifier-free guidance."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gmflow_jax._arguments import append_axes, check_same_shape, concrete, expand_time, promote
from gmflow_jax._safe import safe_divide, safe_sqrt
from gmflow_jax.gm._moments import weighted_mean
from gmflow_jax.gm._surrogate import sample_mean, surrogate_of
from gmflow_jax.gm._tilt import tilt_unchecked
from gmflow_jax.gm._types import Gaussian, GaussianMixture, as_mixture, promote_mixture

__all__ = [
    "METHODS", "Guided", "check_guidance_scale", "classifier_free_guidance", "guided_denoiser",
    "in_one_batch", "probabilistic_guidance",
]

# Lower bound of the mean square of the difference of the means. It is part of the method: guidance fades out
# where the conditional and the unconditional prediction agree.
_MIN_SQUARE = 1e-6

# Guidance methods, each with the scale at which it has no effect.
METHODS = {"probabilistic": 0.0, "cfg": 1.0}


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
      ValueError: if scale is outside [0, 1) or shapes do not fit.

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
    cond, scale = promote_mixture(cond, scale)
    uncond = as_mixture(uncond)
    surrogate = surrogate_of(cond, sample_axes)
    uncond_mean = weighted_mean(uncond)
    check_same_shape(cond_mean=surrogate.mean, uncond_mean=uncond_mean)
    batch = surrogate.mean.shape[:-1]
    if scale.ndim != len(batch) or any(n not in (1, m) for n, m in zip(scale.shape, batch, strict=True)):
        scale = expand_time(scale, batch, "scale")
    d = _difference(surrogate.mean, uncond_mean, orthogonal, sample_axes)
    square = sample_mean(jnp.square(d), sample_axes, event_axes=1)
    length = scale * safe_sqrt(surrogate.var / jnp.maximum(square, _MIN_SQUARE))
    bias = append_axes(length, 1) * d
    shrink = jnp.square(scale)
    mixture = tilt_unchecked(cond, bias, shrink, (1 - shrink) * surrogate.var, surrogate.mean)
    scale = jnp.broadcast_to(scale, surrogate.var.shape)
    return Guided(mixture, cond, surrogate, bias, scale)


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
      scale: a scalar or [B]. 1 means no guidance.
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
    cond_mean = weighted_mean(cond) if isinstance(cond, GaussianMixture) else cond
    uncond_mean = weighted_mean(uncond) if isinstance(uncond, GaussianMixture) else uncond
    check_same_shape(cond_mean=cond_mean, uncond_mean=uncond_mean)
    gain = append_axes(expand_time(scale, cond_mean.shape[:-1], "scale") - 1, 1)
    shift = gain * _difference(cond_mean, uncond_mean, orthogonal, sample_axes)
    if isinstance(cond, GaussianMixture):
        return dataclasses.replace(cond, means=cond.means + shift[..., None, :])
    return cond + shift


def in_one_batch(denoise: Callable, condition, null_condition) -> Callable:
    """Make the conditional and the unconditional prediction with one network call on a batch of 2 B.

    Args:
      denoise: (x_t, t, condition) -> prediction, called with 2 B samples and conditions.
      condition: pytree of arrays [B, ...], such as labels.
      null_condition: the same pytree for unconditional predictions, such as null labels.

    Returns:
      predict(x_t, t) -> (conditional prediction, unconditional prediction), for x_t [B, ..., D]. Pass it to
      `guided_denoiser` with denoise_uncond=None.

    Raises:
      ValueError: by predict, if the numbers of samples, conditions or times differ.
    """
    # Conditional and unconditional samples alternate. If the batch is split over devices, both copies of a
    # sample then stay on its device.
    both = jax.tree.map(_interleave, condition, null_condition)

    def predict(x_t: jax.Array, t: jax.Array):
        t = jnp.asarray(t)
        sizes = [leaf.shape[0] // 2 for leaf in jax.tree.leaves(both)] + list(t.shape[:1])
        if set(sizes) - {x_t.shape[0]}:
            raise ValueError(
                f"x_t has {x_t.shape[0]} samples, but conditions and times are for {sizes}: give one "
                "condition for each sample, and a scalar time or one for each."
            )
        times = _interleave(t, t) if t.ndim else t
        prediction = denoise(_interleave(x_t, x_t), times, both)

        def half(i):
            def of(leaf):  # a log_std that all samples share has no batch axis of size 2 B
                return leaf[i::2] if leaf.ndim and leaf.shape[0] == 2 * x_t.shape[0] else leaf

            return jax.tree.map(of, prediction)

        return half(0), half(1)

    return predict


def _interleave(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.stack([a, b], axis=1).reshape(-1, *a.shape[1:])


def guided_denoiser(
    denoise: Callable,
    denoise_uncond: Callable | None,
    scale: jax.Array | float,
    method: str = "probabilistic",
    orthogonal: float = 1.0,
    interval: tuple[float, float] = (0.0, 1.0),
    sample_axes: tuple[int, ...] | None = None,
) -> Callable:
    """Combine a conditional and an unconditional denoiser into one guided denoise(x_t, t).

    Args:
      denoise: (x_t, t) -> conditional GaussianMixture over x_0.
      denoise_uncond: (x_t, t) -> unconditional GaussianMixture over x_0. None if `denoise` returns both
        predictions, as the result of `in_one_batch` does.
      scale: guidance scale. For 'probabilistic' in [0, 1), where 0 means no guidance; for 'cfg' usually at
        least 1, where 1 means no guidance. It may be traced, so that another scale needs no compilation.
      method: 'probabilistic' (`probabilistic_guidance`) or 'cfg' (`classifier_free_guidance` of x_0).
      orthogonal: share of the difference's component parallel to the conditional mean that is removed, for
        both methods. Plain classifier-free guidance is method='cfg', orthogonal=0.
      interval: times (low, high) between which guidance acts, both ends included.
      sample_axes: axes of one sample, over which variances and mean squares are taken: (1, 2) for
        [B, H, W, D]. None takes all batch axes but the first.

    Returns:
      denoise(x_t, t) -> `Guided` for 'probabilistic', GaussianMixture for 'cfg'.

    Raises:
      ValueError: if the method is unknown, interval is not 0 <= low <= high <= 1, or the scale of
        'probabilistic' is outside [0, 1). The scale of 'cfg' and a traced scale are not checked.

    Source:
      GMFlow (arXiv 2504.05304), eq. 7-8; Kynkaanniemi et al. 2024 (arXiv 2404.07724) for the interval.

    Example:
      >>> import jax.numpy as jnp
      >>> from gmflow_jax import flow, guidance, solvers
      >>> cond = flow.denoiser(lambda x, t: x - 1)  # stands for a network with the label
      >>> uncond = flow.denoiser(lambda x, t: x)  # and without
      >>> denoise = guidance.guided_denoiser(cond, uncond, scale=0.3)
      >>> x_0 = solvers.sample(None, denoise, jnp.ones((4, 2)), solvers.gm_ode(), flow.time_grid(4))
      >>> x_0.shape
      (4, 2)
    """
    _check_method(method)
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(f"interval must be (low, high) with 0 <= low <= high <= 1, not {interval}.")
    probabilistic = method == "probabilistic"
    if probabilistic:
        check_guidance_scale(scale)
    combine = probabilistic_guidance if probabilistic else classifier_free_guidance
    off = METHODS[method]

    def guided(x_t: jax.Array, t: jax.Array):
        prediction = denoise(x_t, t)
        cond, uncond = prediction if denoise_uncond is None else (prediction, denoise_uncond(x_t, t))
        inside = (jnp.asarray(t) >= low) & (jnp.asarray(t) <= high)
        active = jnp.where(inside, scale, off)
        return combine(cond, uncond, active, orthogonal, sample_axes)

    return guided


def check_guidance_scale(scale: jax.Array | float, method: str = "probabilistic") -> None:
    """Raise if the method is unknown or the scale is out of its range. A traced scale is not checked.

    Args:
      scale: guidance scale.
      method: one of `METHODS`.

    Raises:
      ValueError: if the method is unknown; if the scale is outside [0, 1) for 'probabilistic', or less than
        1 for 'cfg'.
    """
    _check_method(method)
    value = concrete(scale)
    if value is None:
        return
    if method == "cfg" and not np.all(value >= METHODS["cfg"]):
        raise ValueError(
            f"guidance_scale must be at least 1 for classifier-free guidance, but {scale} was given: 1 means "
            "no guidance, and smaller values guide away from the condition. Typical values are 1.2 to 6.5."
        )
    if method == "probabilistic" and not np.all((value >= 0) & (value < 1)):
        raise ValueError(
            f"guidance_scale must be in [0, 1) for probabilistic guidance, but {scale} was given: at 1 "
            "the guided variance would vanish. Typical values are 0.02 to 0.75; 0 is no guidance."
        )


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown. Choose one of {', '.join(METHODS)}.")
