"""Noise schedules x = alpha(tau) x_0 + sigma(tau) noise, reached from the straight path by time and scale."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gmflow_jax._arguments import concrete
from gmflow_jax._safe import safe_divide

# Halvings of the bracket around a time: the last digit of float64 is reached, and a relative 1e-10 at 1e-9.
_HALVINGS = 64
# Points at which a schedule is checked when a denoiser is made.
_CHECKED = 33

AlphaSigma = Sequence[Callable[[jax.Array], jax.Array]] | Sequence[ArrayLike]


class Schedule(NamedTuple):
    r"""A schedule as the straight path x_t = (1 - t) x_0 + t noise with another time and scale.

    With $t = \sigma / (\alpha + \sigma)$ and $c = \alpha + \sigma$, $\alpha x_0 + \sigma \epsilon = c x_t$.

    Attributes:
      level: schedule's time tau -> (t, c).
      time: t -> tau.
      low: the least t of the schedule.
      high: the largest t of the schedule.
    """

    level: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    time: Callable[[jax.Array], jax.Array]
    low: jax.Array | float
    high: jax.Array | float


# The straight path itself.
STRAIGHT = Schedule(lambda t: (t, jnp.ones_like(t)), lambda t: t, 0.0, 1.0)


def read_schedule(schedule: AlphaSigma) -> Schedule:
    """Read the argument `schedule` of `flow.denoiser`.

    Args:
      schedule: (alpha, sigma), two functions of a time in [0, 1], or two tables [T].

    Returns:
      The schedule.

    Raises:
      ValueError: if it is neither, or the noise level sigma / alpha is not monotone.
    """
    parts = tuple(schedule) if isinstance(schedule, (tuple, list)) else ()
    functions = [part for part in parts if callable(part)]
    if len(functions) == len(parts) == 2:
        return _of_functions(*functions)
    tables = [table for part in parts if (table := _table(part)) is not None]
    if len(tables) == len(parts) == 2:
        return _of_tables(*tables)
    given = ", ".join(type(part).__name__ for part in parts) if parts else type(schedule).__name__
    raise ValueError(
        f"schedule is ({given}), but must be (alpha, sigma), two functions of a time in [0, 1], or two "
        "tables [T] of one length, at least 2."
    )


def _table(values) -> jax.Array | None:
    if callable(values):
        return None
    try:
        table = jnp.asarray(values, jnp.result_type(float))
    except (TypeError, ValueError):
        return None
    return table if table.ndim == 1 and table.size > 1 else None


def _of_functions(alpha: Callable, sigma: Callable) -> Schedule:
    def level(tau):
        a, s = alpha(tau), sigma(tau)
        return jnp.clip(s / (a + s), 0, 1), a + s

    try:
        _check(jax.vmap(level), jnp.linspace(0.0, 1.0, _CHECKED))
    except TypeError as error:
        raise ValueError(
            "alpha and sigma of the schedule cannot be called with a traced array. Write them with "
            "jax.numpy instead of math or numpy, so that they return arrays."
        ) from error
    first, last = level(jnp.zeros(()))[0], level(jnp.ones(()))[0]
    time = _search(alpha, sigma, last > first)
    return Schedule(level, time, jnp.minimum(first, last), jnp.maximum(first, last))


def _search(alpha: Callable, sigma: Callable, rising: jax.Array) -> Callable[[jax.Array], jax.Array]:
    """Return t -> the time in [0, 1] with sigma / alpha = t / (1 - t), by bisection."""

    def time(t):
        def excess(tau):  # of noise; nothing is divided, so that it is accurate where alpha or sigma is small
            return sigma(tau) * (1 - t) - alpha(tau) * t

        def halve(_, ends):
            less, more = ends
            middle = 0.5 * (less + more)
            above = excess(middle) > 0
            return jnp.where(above, less, middle), jnp.where(above, middle, more)

        ends = [jnp.where(rising == upper, 1.0, 0.0).astype(t.dtype) + 0 * t for upper in (False, True)]
        less, more = jax.lax.fori_loop(0, _HALVINGS, halve, tuple(ends))
        found = jax.lax.stop_gradient(0.5 * (less + more))
        # The gradient of the root is that of -excess / slope (implicit function theorem); the value is 0.
        value, slope = jax.jvp(excess, (found,), (jnp.ones_like(found),))
        slope = jax.lax.stop_gradient(jnp.where(jnp.isfinite(slope), slope, 0.0))
        return found - safe_divide(value - jax.lax.stop_gradient(value), slope)

    return time


def _of_tables(alphas: jax.Array, sigmas: jax.Array) -> Schedule:
    if alphas.shape != sigmas.shape:
        raise ValueError(
            f"The tables of alpha and sigma have {alphas.size} and {sigmas.size} entries. Give one value of "
            "each for every step of the schedule."
        )
    index, scales = jnp.arange(alphas.size, dtype=alphas.dtype), alphas + sigmas
    levels = sigmas / scales
    _check(lambda _: (levels, scales), index)
    rising = [jnp.where(levels[-1] < levels[0], v[::-1], v) for v in (levels, index)]

    def level(tau):
        return _interpolate(tau, index, levels), _interpolate(tau, index, scales)

    def time(t):
        return _interpolate(t, *rising)

    return Schedule(level, time, jnp.min(levels), jnp.max(levels))


def _interpolate(x: jax.Array, points: jax.Array, values: jax.Array) -> jax.Array:
    """Interpolate linearly between increasing points, also where x is split over Explicit mesh axes.

    `jnp.interp` fails for such an x, so that its segment is found and selected by comparisons.
    """
    points, values = points.astype(x.dtype), values.astype(x.dtype)
    shape = (1,) * x.ndim + (-1,)
    segment = jnp.sum(x[..., None] >= points[1:-1].reshape(shape), axis=-1, keepdims=True)
    here = segment == jnp.arange(points.size - 1).reshape(shape)

    def select(of_segments):  # exact: all terms but one are 0
        return jnp.sum(jnp.where(here, of_segments.reshape(shape), 0), axis=-1)

    start, end, low, high = map(select, (points[:-1], points[1:], values[:-1], values[1:]))
    share = (x - start) / (end - start)
    return (1 - share) * low + share * high


def _check(level: Callable, times: jax.Array) -> None:
    """Raise unless sigma / alpha is monotone and alpha + sigma positive. Traced schedules are not checked."""
    with jax.ensure_compile_time_eval():
        t, c = map(concrete, level(times))
    if t is None or c is None:
        return
    steps = np.diff(t)
    if not (np.all(c > 0) and np.all(np.isfinite(c)) and (np.all(steps > 0) or np.all(steps < 0))):
        raise ValueError(
            f"The noise level sigma / (alpha + sigma) of the schedule goes from {t[0]:.4g} to {t[-1]:.4g}, "
            "but not steadily, or alpha + sigma is not positive. Give alpha and sigma of "
            "x = alpha x_0 + sigma noise, as functions of a time in [0, 1] or as tables."
        )
