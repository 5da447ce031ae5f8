"""Guidance towards a condition: the probabilistic guidance of GMFlow, and classifier-free guidance."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gmflow_jax._arguments import append_axes, check_same_shape, concrete, expand_time, promote
from gmflow_jax._safe import safe_divide, safe_sqrt
from gmflow_jax.gm._moments import moment_match, weighted_mean
from gmflow_jax.gm._tilt import tilt_unchecked
from gmflow_jax.gm._types import Gaussian, GaussianMixture, as_mixture, promote_mixture

__all__ = [
    "METHODS", "Guided", "check_guidance_scale", "classifier_free_guidance", "guided_denoiser",
    "in_one_batch", "probabilistic_guidance",
]

# Under the mean square of the guidance difference. Part of the method: it fades guidance out where
# the conditional and the unconditional prediction agree.
_MIN_SQUARE = 1e-6

METHODS = {"probabilistic": 0.0, "cfg": 1.0}  # and the scale at which each is off


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Guided:
    """A guided prediction, with what the second-order solvers need to guide and extrapolate at once.

    Attributes:
      mixture: the guided mixture over x_0.
      base: the conditional mixture that it was made from.
      surrogate: Gaussian matched to `base`, its variance averaged over the sample.
      bias: shift of the surrogate's mean, [*batch, D].
      scale: guidance scale w, the rank of `*batch`; 0 outside the guidance interval.
    """

    mixture: GaussianMixture
    base: GaussianMixture
    surrogate: Gaussian
    bias: jax.Array
    scale: jax.Array


def sample_mean(x: jax.Array, sample_axes: tuple[int, ...] | None, event_axes: int) -> jax.Array:
    """Mean over the axes of one sample, keeping them with size 1.

    Args:
      x: [*batch], or [*batch, D] with event_axes = 1; the channel axis is averaged and dropped.
      sample_axes: which batch axes belong to one sample; None means all but the first.
    """
    rank = x.ndim - event_axes
    axes = range(1, rank) if sample_axes is None else (_axis(a, rank) for a in sample_axes)
    x = jnp.mean(x, axis=-1) if event_axes else x
    axes = tuple(axes)
    return jnp.mean(x, axis=axes, keepdims=True) if axes else x


def _axis(axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ValueError(
            f"sample_axes names axis {axis}, but a mixture with {rank} batch axes has only axes "
            f"{-rank} to {rank - 1}. The channel and component axes do not count."
        )
    return axis % rank


def surrogate_of(q: GaussianMixture, sample_axes: tuple[int, ...] | None) -> Gaussian:
    """The Gaussian matched to q with its variance averaged over the sample."""
    matched = moment_match(q)
    var = jnp.broadcast_to(matched.var, matched.mean.shape[:-1])
    return Gaussian(matched.mean, sample_mean(var, sample_axes, event_axes=0))


def _difference(
    cond: jax.Array, uncond: jax.Array, orthogonal: float, sample_axes: tuple[int, ...] | None
) -> jax.Array:
    """cond - uncond, less the share `orthogonal` of its part parallel to cond (Sadat et al. 2025)."""
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
    """Probabilistic guidance (eq. 7-8): reweight the conditional mixture by a ratio of Gaussians.

    The mask is N(m_c + w s_c d, (1 - w^2) s_c^2) / N(m_c, s_c^2) with m_c, s_c^2 of the conditional
    surrogate and d = m_c - m_u normalised to unit mean square over the sample.

    Args:
      cond, uncond: mixtures over x_0, [B, ..., K, D].
      scale: w in [0, 1); a scalar, [B], or the rank of `*batch`. 0 is off.
      orthogonal: share of the component of d parallel to m_c that is removed, 0 to 1.
      sample_axes: batch axes that belong to one sample; None means all but the first.

    Raises:
      ValueError: if scale is outside [0, 1) or shapes do not fit.
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
    """Classifier-free guidance: extrapolate the mean, m_c + (scale - 1) (m_c - m_u). For baselines.

    Works on predictions of x_0 or of the velocity, as arrays [B, ..., D] or as mixtures, whose
    components are all shifted alike. scale 1 is off; a scalar or [B]. `orthogonal` and `sample_axes`
    as in `probabilistic_guidance`.
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
    """Both predictions from one call on twice the batch, each sample next to its unconditional twin.

    Args:
      denoise: (x_t, t, condition) -> prediction, for conditions [2 B, ...].
      condition, null_condition: pytrees of arrays [B, ...], such as labels.

    Returns:
      (x_t, t) -> (conditional, unconditional prediction), for `guided_denoiser`; x_t is [B, ..., D].
    """
    # Neighbours rather than halves: a batch that is split over devices stays where it is.
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
            def of(leaf):  # a spread that all samples share has no batch
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
      denoise, denoise_uncond: (x_t, t) -> GaussianMixture over x_0. Where `denoise_uncond` is None,
        `denoise` gives both, as `in_one_batch` makes it.
      scale: guidance scale; in [0, 1) for 'probabilistic' (0 is off), >= 1 usual for 'cfg' (1 is off).
        May be traced: another scale needs no new compilation.
      method: 'probabilistic' or 'cfg' (mean extrapolation of x_0).
      orthogonal: as in `probabilistic_guidance`.
      interval: times (low, high) in which guidance acts, both ends included (Kynkaanniemi et al. 2024).
      sample_axes: as in `probabilistic_guidance`.

    Returns:
      denoise(x_t, t) -> `Guided` for 'probabilistic', GaussianMixture for 'cfg'.
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
    """Refuse an unknown method, and a scale that it does not take, where the scale is known."""
    _check_method(method)
    value = concrete(scale)
    if value is None:
        return
    if method == "cfg" and not np.all(value >= METHODS["cfg"]):
        raise ValueError(
            f"guidance_scale must be at least 1 for classifier-free guidance, but {scale} was given: 1 is no "
            "guidance, and less turns away from the condition. Typical values are 1.2 to 6.5."
        )
    if method == "probabilistic" and not np.all((value >= 0) & (value < 1)):
        raise ValueError(
            f"guidance_scale must be in [0, 1) for probabilistic guidance, but {scale} was given: at 1 "
            "the guided variance would vanish. Typical values are 0.02 to 0.75; 0 is no guidance."
        )


def _check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown. Choose one of {', '.join(METHODS)}.")
