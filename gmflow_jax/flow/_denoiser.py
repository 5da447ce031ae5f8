r"""Denoisers from networks of other conventions: what they predict, their time, and their noise schedule."""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from gmflow_jax._arguments import (
    append_axes,
    checked_state,
    expand_time,
    finite_number,
    join_aux,
    promote,
    split_aux,
)
from gmflow_jax._meshes import leading_like
from gmflow_jax._safe import safe_divide, safe_log
from gmflow_jax.flow._path import Prediction, checked_time, to_data
from gmflow_jax.flow._schedule import STRAIGHT, AlphaSigma, Schedule, read_schedule
from gmflow_jax.gm._types import Gaussian, GaussianMixture, as_mixture

# (t, c) -> (a, b, n) with x_0 = (a x_t - b prediction) / n, if the network sees c x_t.
_COEFFICIENTS = {
    "x_0": lambda t, c: (jnp.zeros_like(t), -jnp.ones_like(t), jnp.ones_like(t)),
    "noise": lambda t, c: (jnp.ones_like(t), t, 1 - t),
    "score": lambda t, c: (jnp.ones_like(t), -c * jnp.square(t), 1 - t),
    "v": lambda t, c: (1 - t, t / c, jnp.square(1 - t) + jnp.square(t)),
}
_KINDS = ("velocity", *_COEFFICIENTS)


def denoiser(
    velocity_fn: Callable[[jax.Array, jax.Array], Prediction],
    predicts: Literal["velocity", "x_0", "noise", "score", "v"] = "velocity",
    reversed_time: bool = False,
    time_shape: Literal["scalar", "batch"] = "scalar",
    scale: float = 1.0,
    schedule: AlphaSigma | None = None,
) -> Callable[[jax.Array, jax.Array], GaussianMixture]:
    r"""Convert a network to a denoiser, the form in which solvers take it.

    The convention of this library is $x_t = (1 - t) x_0 + t \epsilon$, with data at t = 0, noise at t = 1 and
    the velocity $u = \epsilon - x_0$. The other arguments adapt networks of other conventions:

    - 'x_0' is taken as it is.
    - 'noise', $\epsilon$: $x_0 = (x_t - t \epsilon) / (1 - t)$.
    - 'score', $s = \nabla \log p(x_t) = -\mathrm{E}[\epsilon | x_t] / t$: $x_0 = (x_t + t^2 s) / (1 - t)$.
    - 'v' $= (1 - t) \epsilon - t x_0$: $x_0 = ((1 - t) x_t - t v) / ((1 - t)^2 + t^2)$.
    - A `schedule` $x = \alpha x_0 + \sigma \epsilon$ meets the straight path where
      $\sigma / \alpha = t / (1 - t)$. There $x = c x_t$ with $c = \alpha + \sigma$. The noise is the
      same, the score of x is $1 / c$ of that of x_t, v is $\alpha \epsilon - \sigma x_0$, and the velocity is
      $d x / d \tau = \alpha' x_0 + \sigma' \epsilon$.

    At t = 0 all but 'x_0' give $x_0 = x_t$, whatever the network says. At t = 1 noise and score say nothing
    about $x_0$: beyond $t = 1 - \sqrt{\mathrm{eps}}$ their network is called at that time. This is 3.5e-4
    before the end in float32, and 0.09 in bfloat16, if that is the dtype of the state or of the prediction. A
    network that computes in bfloat16 should return bfloat16: a cast would hide its rounding, which the
    division by 1 - t magnifies. A network whose schedule does not reach t = 0 or t = 1 is called at the
    schedule's end. In both cases the state is scaled such that its noise (near t = 1) or its data (near
    t = 0) fits.

    Args:
      velocity_fn: (x_t, t) -> prediction: a GaussianMixture, a Gaussian, or an array [B, ..., D]. An array
        becomes the mixture with K = 1 and the standard deviation t, which for the velocity is unit variance.
        A pair (prediction, aux) is passed on as (mixture, aux), see `has_aux` of `solvers.sample`.
      predicts: what the network predicts: 'velocity', 'x_0', 'noise', 'score' or 'v'. Mixtures and Gaussians
        are over that variable.
      reversed_time: whether the network's path is $x_s = s x_0 + (1 - s) \epsilon$, with data at s = 1, noise
        at s = 0 and the velocity $x_0 - \epsilon$.
      time_shape: 'batch' calls the network with times [B] even if all samples share the time.
      scale: the network gets scale * t, such as 1000 * t.
      schedule: (alpha, sigma), two functions of a time in [0, 1] with monotone sigma / alpha, in either
        direction; the time is found by bisection. For a network D(x, sigma) of x_0, such as EDM's, they are
        jnp.ones_like and any increasing sigma(u), and the network is lambda x, u: D(x, sigma(u)). Or two
        tables [T] of the steps of a discrete schedule, such as sqrt(alphas_cumprod) and
        sqrt(1 - alphas_cumprod) of DDPM. The network then gets the index of the step, between steps a
        fraction; one that looks steps up needs jnp.round(index).astype(int).

    Returns:
      denoise(x_t, t) -> GaussianMixture over x_0.

    Raises:
      ValueError: if an argument is not valid.

    Source:
      Karras et al. 2022 (arXiv 2206.00364), section 2 and appendix B, for changes of time and scale;
      Ho et al. 2020 (arXiv 2006.11239), eq. 15, for the noise; Song et al. 2021 (arXiv 2011.13456) for the
      score; Salimans and Ho 2022 (arXiv 2202.00512), appendix D, for v.

    Example:
      For standard normal data the mean velocity is (2 t - 1) x_t / (t^2 + (1 - t)^2):

      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import flow, gm
      >>> denoise = flow.denoiser(lambda x_t, t: (2 * t - 1) * x_t / (t**2 + (1 - t) ** 2))
      >>> q = denoise(jnp.ones((1, 2)), 0.5)
      >>> print(np.asarray(gm.mean(q)).round(3))
      [[1. 1.]]

      A variance-preserving network for the same data, whose noise is sin(pi tau / 2) x:

      >>> alpha, sigma = lambda tau: jnp.cos(jnp.pi / 2 * tau), lambda tau: jnp.sin(jnp.pi / 2 * tau)
      >>> denoise = flow.denoiser(lambda x, tau: sigma(tau) * x, predicts="noise", schedule=(alpha, sigma))
      >>> print(np.asarray(gm.mean(denoise(jnp.ones((1, 2)), 0.5))).round(3))
      [[1. 1.]]
    """
    _check_options(velocity_fn, predicts, reversed_time, time_shape, scale, schedule)

    def call(x: jax.Array, t: jax.Array) -> tuple[Prediction, tuple]:
        t = 1 - t if reversed_time else t
        t = t if scale == 1 else scale * t
        if time_shape == "batch":
            expand_time(jnp.asarray(t), x.shape[:-1])  # checks the shape
            t = leading_like(jnp.asarray(t), x)
        return _checked_result(velocity_fn(x, t))

    if predicts == "velocity" and schedule is None:

        def from_velocity(x_t, t):
            u, aux = call(checked_state("x_t", x_t), t)
            q = as_mixture(_with_unit_variance(u))
            q = dataclasses.replace(q, means=-q.means) if reversed_time else q
            return join_aux(to_data(q, x_t, t), aux)

        return from_velocity
    path = STRAIGHT if schedule is None else read_schedule(schedule)

    def denoise(x_t, t):
        return _denoise(call, predicts, path, checked_state("x_t", x_t), jnp.asarray(t))

    return denoise


def _denoise(call: Callable, kind: str, path: Schedule, x_t: jax.Array, time: jax.Array):
    """Call a network near (x_t, t), within the limits of its schedule, and convert its prediction to x_0."""
    x, t = promote(x_t, time)
    # A weakly typed time follows the state, but bfloat16 cannot count the steps of a table.
    time_dtype = x_t.dtype if path is STRAIGHT else x.dtype
    time_dtype = time_dtype if time.weak_type else time.dtype

    def predict(x, tau):
        return call(x.astype(x_t.dtype), tau.astype(time_dtype))

    margin = _margin(kind, call, x_t, t.astype(time_dtype))
    low, high = (jnp.asarray(v, x.dtype) for v in _call_limits(kind, path, margin, x_t.dtype, x.dtype))
    below, above = jnp.where(t < low, t, low), jnp.where(t > high, t, high)
    fit = (1 - low) / (1 - below) * (high / above)  # 1 between the limits

    def at(value: jax.Array, axes: int) -> jax.Array:
        return append_axes(expand_time(value, x.shape[:-1]), axes)

    inside = jnp.where(t < low, low, jnp.where(t > high, high, t))  # jnp.clip halves the gradient at its ends
    tau = path.time(inside)
    c = path.level(tau)[1].astype(x.dtype)
    fitted = at(fit, 1) * x
    prediction, aux = predict(at(c, 1) * fitted, tau)
    coefficients = _of_velocity(path, tau) if kind == "velocity" else _COEFFICIENTS[kind](inside, c)
    # Below the least noise of the schedule, the noise that was predicted there is kept: x_0 = x_t at t = 0.
    share = safe_divide(below, low, otherwise=1.0) * ((1 - low) / (1 - below))
    rest = x / at(1 - below, 1)
    q = as_mixture(_with_unit_variance(prediction))
    q, x, t, fitted, rest, share, a, b, n = promote(q, x, t, fitted, rest, share, *coefficients)
    checked_time(q, x, t)
    means = q.means if kind == "x_0" else (at(a, 2) * fitted[..., None, :] - at(b, 2) * q.means) / at(n, 2)
    means = means + at(1 - share, 2) * (rest[..., None, :] - means)
    of_array = not isinstance(prediction, (GaussianMixture, Gaussian))
    factor = share * jnp.abs(b / n)
    log_std = safe_log(at(t, 0)) if of_array else q.log_std + safe_log(at(factor, 0))
    return join_aux(GaussianMixture(means, q.log_weights, log_std), aux)


def _margin(kind: str, call: Callable, x_t: jax.Array, t: jax.Array) -> float:
    """Return how long before t = 1 a network is called at the latest."""
    if kind not in ("noise", "score"):
        return 0.0 if kind in ("v", "x_0") else float(jnp.finfo(promote(x_t, t)[0].dtype).eps)
    # x_t - t noise, rounded to eps, is divided by 1 - t; the prediction changes by about 1 - t.
    prediction, _ = jax.eval_shape(call, x_t, t)  # `call` is one function, so that it is traced only once
    return math.sqrt(max(float(jnp.finfo(leaf.dtype).eps) for leaf in (x_t, *jax.tree.leaves(prediction))))


def _call_limits(kind: str, path: Schedule, margin: float, given: jnp.dtype, dtype: jnp.dtype):
    """Return the least and the largest t at which a network is called, for a state of dtype `given`."""
    if kind == "x_0":
        return path.low, path.high
    # Networks may divide by t^2, which must not overflow in float16.
    low = max(float(jnp.finfo(dtype).eps), 2 * float(jnp.finfo(given).max) ** -0.5)
    return jnp.maximum(path.low, low), jnp.minimum(path.high, 1 - margin)


def _of_velocity(path: Schedule, tau: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return the coefficients of x_0 for the velocity dx/dtau = c' x_t + c t' u, where x = c x_t."""
    (t, c), (dt, dc) = jax.jvp(path.level, (tau,), (jnp.ones_like(tau),))
    return c * dt + t * dc, t, c * dt


def _with_unit_variance(prediction: Prediction) -> GaussianMixture | Gaussian:
    if isinstance(prediction, (GaussianMixture, Gaussian)):
        return prediction
    return Gaussian(jnp.asarray(prediction), jnp.ones((), jnp.float32))


def _checked_result(result) -> tuple[Prediction, tuple]:
    """Return the prediction and, in a tuple, its aux if there is one."""
    prediction, aux = split_aux(result)
    if not isinstance(prediction, (GaussianMixture, Gaussian, jax.Array, np.ndarray)):
        raise ValueError(
            f"The network returned {type(prediction).__name__}, but a denoiser needs its prediction: a "
            "GaussianMixture, a Gaussian or an array [B, ..., D], or a pair of it and aux. Select it in a "
            "function (x_t, t) -> prediction."
        )
    is_distribution = isinstance(prediction, (GaussianMixture, Gaussian))
    return prediction if is_distribution else jnp.asarray(prediction), aux


def _check_options(velocity_fn, predicts, reversed_time, time_shape, scale, schedule) -> None:
    if not callable(velocity_fn):
        raise ValueError(
            f"The network is a {type(velocity_fn).__name__}, which cannot be called. Give a function "
            "(x_t, t) -> prediction."
        )
    for name, value, allowed in (
        ("predicts", predicts, _KINDS),
        ("reversed_time", reversed_time, (False, True)),
        ("time_shape", time_shape, ("scalar", "batch")),
    ):
        if not any(isinstance(value, type(known)) and value == known for known in allowed):
            raise ValueError(f"{name} is {value!r}, but must be one of {', '.join(map(repr, allowed))}.")
    if finite_number("scale", scale) <= 0:
        raise ValueError(f"scale is {scale}, but must be positive: the network is called with scale * t.")
    if reversed_time and schedule is not None:
        raise ValueError(
            "reversed_time and schedule were both given. Leave out reversed_time: alpha and sigma say at "
            "which end of the time the data is."
        )
    if isinstance(schedule, (tuple, list)) and not any(map(callable, schedule)):
        if scale != 1:
            raise ValueError(
                f"scale is {scale}, and the schedule has tables. Leave out scale: the network gets the index "
                "of the step."
            )
        if predicts == "velocity":
            raise ValueError(
                "predicts is 'velocity', which needs the slopes of alpha and sigma, but the schedule has "
                "tables. Give functions, or say what the network predicts, such as predicts='noise'."
            )
