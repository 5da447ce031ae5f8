"""Second order for GM solvers (appendix A.2): extrapolate the mean and reweight the mixture once."""

import dataclasses
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gmflow_jax._arguments import append_axes, expand_time, promote
from gmflow_jax._safe import safe_divide, safe_sqrt
from gmflow_jax.flow._path import posterior_mean_unchecked
from gmflow_jax.gm._moments import weighted_mean
from gmflow_jax.gm._tilt import tilt_unchecked
from gmflow_jax.gm._types import Gaussian, GaussianMixture, check_mixture
from gmflow_jax.guidance import Guided, sample_mean, surrogate_of
from gmflow_jax.solvers._base import Denoiser, mixture_of, per_sample

# Where a shift exceeds the variance, the mask keeps this share of the variance. Part of the method.
_MIN_SHRINK = 1e-6


class Memory(NamedTuple):
    """The previous step: its mixture over x_0 (after guidance), its point and time, and its size t - s.

    An infinite step size says that there was none.
    """

    mixture: GaussianMixture
    x: jax.Array
    t: jax.Array
    step_size: jax.Array


class Extrapolation(NamedTuple):
    """The options of `second_order`."""

    ca: float = 0.005
    cb: float = 1.0
    correction_steps: int = 0
    sample_axes: tuple[int, ...] | None = None


def empty_memory(denoise: Denoiser, x_init: jax.Array) -> Memory:
    """The memory before the first step, with the shapes that `denoise` will give."""
    t = jnp.ones((), x_init.dtype)
    shapes = mixture_of(jax.eval_shape(denoise, x_init, t))
    # zeros_like of a shape also keeps its variation over the devices of a shard_map.
    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf, x_init.dtype), shapes)
    # A constant, not log_softmax of zeros, which XLA would spend seconds folding.
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
    """Extrapolate a prediction over the step from t to s with the previous step's (eq. 13-14).

    The previous mixture is moved to (x_t, t) by its exact posterior; half of the step-scaled change
    of the mean, plus the guidance bias if any, shifts the surrogate Gaussian; and one tilt of the
    unguided mixture applies both. Neutral where the network is exact, whose change is 0.

    Args:
      prediction: mixture over x_0 at (x_t, t), or what guidance returned.
      memory: (mixture, x, t, step size) of the previous step; an infinite step size means that there
        was none and returns the prediction as it is.
      x_t: [B, ..., D].
      t, s: scalars or [B].
      ca, cb: damping: the change is scaled by sqrt(max(0, 1 - v ((w cb)^2 + ca) / h_prev^2)).
      correction_steps: fixed-point steps that bring the mixture's mean closer to its target.
      sample_axes: batch axes of one sample; None means all but the first.

    Returns:
      The prediction with its mixture replaced, same type.
    """
    options = Extrapolation(ca, cb, correction_steps, sample_axes)
    return extrapolate(prediction, memory, x_t, t, s, options)[0]


def extrapolate(
    prediction: GaussianMixture | Guided,
    memory: tuple[GaussianMixture, jax.Array, jax.Array, jax.Array],
    x_t: jax.Array,
    t: ArrayLike,
    s: ArrayLike,
    options: Extrapolation,
) -> tuple[GaussianMixture | Guided, Gaussian]:
    """`second_order`, and the surrogate that guidance and extrapolation together aim at."""
    (prediction, memory), x_t, t, s = promote((prediction, Memory(*memory)), x_t, t, s)
    ca, cb, correction_steps, sample_axes = options
    now = mixture_of(prediction)
    check_mixture(now)
    batch = x_t.shape[:-1]
    t, h = expand_time(t, batch), expand_time(t - s, batch)
    memory_t, h_prev = (expand_time(v, batch, "memory") for v in (memory.t, memory.step_size))
    guided = isinstance(prediction, Guided)
    base = prediction.base if guided else prediction
    surrogate = prediction.surrogate if guided else surrogate_of(base, sample_axes)
    damping = (prediction.scale * cb) ** 2 + ca if guided else ca

    previous = posterior_mean_unchecked(memory.mixture, memory.x, memory_t, x_t, t)
    gain = 0.5 * h / h_prev
    gain = gain * safe_sqrt(1 - surrogate.var * damping / jnp.square(h_prev))
    change = append_axes(gain, 1) * (weighted_mean(now) - previous)
    bias = change + prediction.bias if guided else change
    mixture, bias, var = _shift(base, surrogate, bias, sample_axes)
    aim = Gaussian(surrogate.mean + bias, var)
    target = change + weighted_mean(now) - surrogate.mean
    for _ in range(correction_steps):
        reached = weighted_mean(mixture) - surrogate.mean
        ratio = jnp.minimum(safe_divide(_norm(bias), _norm(reached), otherwise=1.0), 1.0)
        bias = bias - (reached - target) * ratio
        mixture, bias, _ = _shift(base, surrogate, bias, sample_axes)

    first = jnp.isinf(h_prev)
    mixture = jax.tree.map(
        lambda new, old: jnp.where(
            append_axes(first, new.ndim - len(batch)), jnp.broadcast_to(old, new.shape), new
        ),
        mixture,
        now,
    )
    return dataclasses.replace(prediction, mixture=mixture) if guided else mixture, aim


def _shift(
    base: GaussianMixture, surrogate: Gaussian, bias: jax.Array, sample_axes: tuple[int, ...] | None
) -> tuple[GaussianMixture, jax.Array, jax.Array]:
    """Reweight `base` so that its surrogate moves by `bias`, and shrinks by the bias's power.

    A bias stronger than one standard deviation is cut to it. Returns the mixture, that bias, and the
    surrogate's new variance.
    """
    var = surrogate.var
    power = sample_mean(jnp.square(bias), sample_axes, event_axes=1)
    exceeds = power > var
    cut = jnp.where(exceeds, safe_sqrt(var / jnp.where(exceeds, power, 1.0)), 1.0)
    # The ratio is not formed where it exceeds 1: its gradient would overflow at tiny variances.
    shrink = jnp.maximum(1 - safe_divide(jnp.where(exceeds, var, power), var), _MIN_SHRINK)
    bias, shrunk = append_axes(cut, 1) * bias, shrink * var
    return tilt_unchecked(base, bias, 1 - shrink, shrunk, surrogate.mean), bias, shrunk


def _norm(x: jax.Array) -> jax.Array:
    return safe_sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True))
