"""Order 2 of the GM solvers (appendix A.2): extrapolate the mean and reweight the mixture."""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gmflow_jax._arguments import append_axes, expand_time, promote
from gmflow_jax._meshes import broadcast_like, where
from gmflow_jax._safe import safe_divide, safe_sqrt
from gmflow_jax.flow._transition import posterior_mean_at, prepare
from gmflow_jax.gm._factor import Factor, is_one
from gmflow_jax.gm._moments import moment_match, weighted_mean
from gmflow_jax.gm._surrogate import sample_mean, surrogate_of
from gmflow_jax.gm._tilt import Centered, centered, tilt_unchecked
from gmflow_jax.gm._types import Gaussian, GaussianMixture, check_mixture, normalised
from gmflow_jax.guidance import Guided, Observed
from gmflow_jax.guidance._observe import observe_by, unobserved
from gmflow_jax.solvers._base import Denoiser, mixture_of, per_sample, predict

# Least share of the surrogate's variance that remains when the mean is shifted. It is part of the method.
_MIN_SHRINK = 1e-6


class Memory(NamedTuple):
    """The previous step, from which `second_order` extrapolates.

    Attributes:
      mixture: the mixture over x_0 after guidance. For `second_order` it is that before extrapolation and
        observation.
      x: the point at which it was predicted, [B, ..., D].
      t: the time at which it was predicted, [B].
      step_size: the size t - s of the step, [B]. inf means that there was no previous step.
    """

    mixture: GaussianMixture
    x: jax.Array
    t: jax.Array
    step_size: jax.Array


class Extrapolation(NamedTuple):
    """The options of `second_order`."""

    ca: float
    cb: float
    correction_steps: int
    sample_axes: tuple[int, ...] | None


def empty_memory(denoise: Denoiser, x_init: jax.Array) -> Memory:
    """Make the memory before the first step, with the shapes of the predictions of `denoise`."""
    t = jnp.ones((), x_init.dtype)
    shapes = mixture_of(jax.eval_shape(functools.partial(predict, denoise), x_init, t))
    # zeros_like of a ShapeDtypeStruct keeps the mesh axes over which the value varies in a shard_map.
    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, x_init.dtype), shapes)
    # Not log_softmax of zeros, since XLA would take seconds to fold it into a constant.
    uniform = jnp.full_like(zeros.log_weights, -math.log(zeros.log_weights.shape[-1]))
    mixture = dataclasses.replace(zeros, log_weights=uniform)
    return Memory(mixture, x_init, per_sample(t, x_init), per_sample(jnp.inf, x_init))


def second_order(
    prediction: GaussianMixture | Guided,
    memory: tuple[GaussianMixture, jax.Array, jax.Array, jax.Array],
    x_t: jax.Array,
    t: ArrayLike,
    s: ArrayLike,
    ca: float = 0.005,
    cb: float = 1.0,
    correction_steps: int = 0,
    sample_axes: tuple[int, ...] | None = None,
) -> GaussianMixture | Guided:
    """Extrapolate a prediction over the step from t to s, using the prediction of the previous step.

    1. Move the previous mixture to (x_t, t) by its exact posterior (eq. 10). The difference of the means is
       the change of the prediction, which is 0 for an exact network.
    2. Scale the change by half of the ratio of step sizes and by the damping, and add the bias of the
       guidance.
    3. Shift the surrogate Gaussian by the sum, and reweight the mixture before guidance accordingly.

    Args:
      prediction: mixture over x_0 at (x_t, t), or a guided prediction.
      memory: (mixture, x, t, step size) of the previous step, such as a `Memory`. An infinite step size
        means that there was no previous step; the prediction is then returned unchanged.
      x_t: state at t, [B, ..., D].
      t: start of the step, a scalar or [B].
      s: end of the step, a scalar or [B].
      ca: damping constant. The change is scaled by sqrt(max(0, 1 - v ((w cb)^2 + ca) / h_prev^2)), where v
        is the variance of the surrogate, w the guidance scale and h_prev the size of the previous step.
      cb: factor of the guidance scale in the damping.
      correction_steps: number of fixed-point corrections, which bring the mixture's mean closer to its
        target. Two are safe. With more than 5, rounding grows: the authors' float32 code was off by 0.04 with
        5 and by 2.2 with 10.
      sample_axes: axes of one sample, over which variances and mean squares are taken: (1, 2) for
        [B, H, W, D]. None takes all batch axes but the first.

    Returns:
      The prediction with its mixture replaced, of the type of `prediction`.

    Raises:
      ValueError: if shapes do not fit.

    Source:
      GMFlow (arXiv 2504.05304), appendix A.2, eq. 13-14.
    """
    options = Extrapolation(ca, cb, correction_steps, sample_axes)
    check_mixture(mixture_of(prediction))
    if isinstance(prediction, GaussianMixture):
        prediction = normalised(prediction)
    return extrapolate(prediction, memory, x_t, t, s, options)[0]


def extrapolate(
    prediction: GaussianMixture | Guided,
    memory: tuple[GaussianMixture, jax.Array, jax.Array, jax.Array],
    x_t: jax.Array,
    t: ArrayLike,
    s: ArrayLike,
    options: Extrapolation,
) -> tuple[GaussianMixture | Guided, Gaussian]:
    """`second_order`, which also returns the target Gaussian of the reweighting.

    Args:
      prediction: as in `second_order`.
      memory: as in `second_order`.
      x_t: as in `second_order`.
      t: as in `second_order`.
      s: as in `second_order`.
      options: the other arguments of `second_order`.

    Returns:
      The extrapolated prediction, and the surrogate shifted by guidance and extrapolation.
    """
    (prediction, memory), x_t, t, s = promote((prediction, Memory(*memory)), x_t, t, s)
    now = unobserved(prediction)
    batch = x_t.shape[:-1]
    t, h = expand_time(t, batch), expand_time(t - s, batch)
    memory_t, h_prev = (expand_time(v, batch, "memory") for v in (memory.t, memory.step_size))
    previous = posterior_mean_at(prepare(memory.mixture, memory.x, memory_t), x_t, t)
    mixture, parts, aim = _reweighted(now, previous, h, h_prev, options)

    def unless_first(new: GaussianMixture, old: GaussianMixture) -> GaussianMixture:
        first = jnp.isinf(h_prev)
        return jax.tree.map(lambda a, b: where(append_axes(first, a.ndim - len(batch)), b, a), new, old)

    mixture = unless_first(mixture, mixture_of(now))
    result = dataclasses.replace(now, mixture=mixture) if isinstance(now, Guided) else mixture
    if not isinstance(prediction, Observed):
        return result, aim
    observed = observe_by(result, prediction.observation, parts)
    given = unless_first(observed.mixture, prediction.mixture)
    observed = Observed(given.means, given.log_weights, given.log_std, result, observed.observation)
    return observed, observed_surrogate(observed, aim, options.sample_axes)


def observed_surrogate(observed: Observed, aim: Gaussian, sample_axes: tuple[int, ...] | None) -> Gaussian:
    """Match a Gaussian to an observed mixture.

    Args:
      observed: the observed prediction.
      aim: the surrogate before the observation. Pixels of which nothing is observed keep it.
      sample_axes: axes over which the variance is averaged.

    Returns:
      The Gaussian.
    """
    matched, nothing = moment_match(observed.mixture), is_one(observed.observation)
    mean = where(append_axes(nothing, 1), aim.mean, matched.mean)
    var = broadcast_like(where(nothing, aim.var, matched.var), mean[..., 0])
    return Gaussian(mean, sample_mean(var, sample_axes, event_axes=0))


def _reweighted(
    now: GaussianMixture | Guided,
    previous: jax.Array,
    h: jax.Array,
    h_prev: jax.Array,
    options: Extrapolation,
) -> tuple[GaussianMixture, tuple[GaussianMixture, Factor], Gaussian]:
    """Reweight a prediction by its guidance and its extrapolation, in one tilt.

    Args:
      now: the prediction.
      previous: the mean of the previous prediction at the same point, [*batch, D].
      h: size of the step, at the rank of `*batch`.
      h_prev: size of the previous step, likewise.
      options: the options of `second_order`.

    Returns:
      The reweighted mixture; the mixture before guidance and the factor, whose product it is; and the target
      Gaussian.
    """
    ca, cb, correction_steps, sample_axes = options
    guided = isinstance(now, Guided)
    mean = weighted_mean(mixture_of(now))
    base = now.base if guided else now
    surrogate = now.surrogate if guided else surrogate_of(base, sample_axes)
    damping = (now.scale * cb) ** 2 + ca if guided else ca
    gain = 0.5 * h / h_prev
    gain = gain * safe_sqrt(1 - surrogate.var * damping / jnp.square(h_prev))
    change = append_axes(gain, 1) * (mean - previous)
    bias = change + now.bias if guided else change
    about_mean = centered(base, surrogate.mean)
    mixture, mask = _shift(about_mean, surrogate, bias, sample_axes)
    aim = Gaussian(surrogate.mean + mask.linear, mask.scale)
    target = change + mean - surrogate.mean
    for _ in range(correction_steps):
        reached = weighted_mean(mixture) - surrogate.mean
        ratio = jnp.minimum(safe_divide(_norm(mask.linear), _norm(reached), otherwise=1.0), 1.0)
        mixture, mask = _shift(about_mean, surrogate, mask.linear - (reached - target) * ratio, sample_axes)
    return mixture, (base, mask), aim


def _shift(
    base: Centered, surrogate: Gaussian, bias: jax.Array, sample_axes: tuple[int, ...] | None
) -> tuple[GaussianMixture, Factor]:
    """Reweight a mixture so that its surrogate's mean moves by `bias`.

    The mean square of the bias is subtracted from the surrogate's variance. A bias of a root mean square
    above one standard deviation is scaled down to one standard deviation.

    Args:
      base: the mixture, with the surrogate's mean as the center.
      surrogate: the Gaussian matched to it.
      bias: the shift, [*batch, D].
      sample_axes: axes of one sample, over which variances and mean squares are taken: (1, 2) for
        [B, H, W, D]. None takes all batch axes but the first.

    Returns:
      The reweighted mixture, and the factor. Its `linear` is the bias that was applied, and its `scale` the
      surrogate's new variance.
    """
    var = surrogate.var
    power = sample_mean(jnp.square(bias), sample_axes, event_axes=1)
    exceeds = power > var
    cut = jnp.where(exceeds, safe_sqrt(var / jnp.where(exceeds, power, 1.0)), 1.0)
    # Where the ratio exceeds 1 it is not computed, since its gradient would overflow for tiny variances.
    shrink = jnp.maximum(1 - safe_divide(jnp.where(exceeds, var, power), var), _MIN_SHRINK)
    factor = Factor(surrogate.mean, append_axes(cut, 1) * bias, 1 - shrink, shrink * var)
    return tilt_unchecked(base, *factor[1:]), factor


def _norm(x: jax.Array) -> jax.Array:
    return safe_sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
