"""Time grids for sampling and random times for training. A shift > 1 moves both towards the noise."""

import jax
import jax.numpy as jnp
from jax.core import Tracer

from gmflow_jax._arguments import as_whole, is_within

# The least time that sample_time returns, so that 1 / t does not overflow in any loss.
MIN_TIME = 1e-6


def shift_time(u: jax.Array, shift: float) -> jax.Array:
    """Map [0, 1] to itself by shift u / (1 + (shift - 1) u), which moves times towards 1 for shift > 1."""
    return shift * u / (1 + (shift - 1) * u)


def unshift_time(t: jax.Array, shift: float) -> jax.Array:
    """Invert `shift_time`."""
    return t / (shift - (shift - 1) * t)


def check_shift(shift: float) -> None:
    """Raise ValueError unless shift is positive and finite."""
    if not is_within(shift, "(0, inf)"):
        raise ValueError(
            f"shift must be positive, but {shift} was given. 1 means no shift; larger values mean more noise."
        )


def time_grid(num_steps: int, shift: float = 1.0) -> jax.Array:
    """Make the times of a sampler, from 1 down to 0.

    Args:
      num_steps: number of steps.
      shift: the grid is shift u / (1 + (shift - 1) u) of a uniform grid u. 1 means no shift; larger values
        place more steps near the noise.

    Returns:
      [num_steps + 1], decreasing.

    Raises:
      ValueError: if num_steps is less than 1 or shift is not positive.

    Example:
      >>> from gmflow_jax import flow
      >>> print(flow.time_grid(4))
      [1.   0.75 0.5  0.25 0.  ]
    """
    number = as_whole(num_steps)
    if number is None or number < 1:
        traced = " For a traced n, use jnp.clip(1 - jnp.arange(most + 1) / n, 0, 1)."
        raise ValueError(
            f"num_steps must be at least 1, but {num_steps} was given. Give a whole number."
            + traced * isinstance(num_steps, Tracer)
        )
    check_shift(shift)
    with jax.ensure_compile_time_eval():  # also while tracing, so that `solvers.sample` can check the times
        return shift_time(1 - jnp.arange(number + 1) / number, shift)


def sample_time(
    key: jax.Array,
    shape: tuple[int, ...],
    shift: float = 1.0,
    logit_normal: bool = True,
    mean: float = 0.0,
    std: float = 1.0,
) -> jax.Array:
    """Draw training times in [1e-6, 1].

    Args:
      key: a PRNG key.
      shape: shape of the result, usually (B,).
      shift: moves the draws towards 1 if > 1, towards 0 if < 1.
      logit_normal: whether to draw sigmoid(mean + std * normal); if not, draws are uniform.
      mean: mean of the logit; unused for uniform draws.
      std: standard deviation of the logit; unused for uniform draws.

    Returns:
      Times of the given shape.

    Raises:
      ValueError: if shift is not positive.

    Source:
      Esser et al. 2024 (arXiv 2403.03206), for the logit-normal draws (section 3.1) and the shift.
    """
    check_shift(shift)
    sampler = jax.random.normal if logit_normal else jax.random.uniform
    draw = sampler(key, shape, jnp.float32)
    return time_from_draw(draw, shift, logit_normal, mean, std)


def time_from_draw(
    draw: jax.Array, shift: float = 1.0, logit_normal: bool = True, mean: float = 0.0, std: float = 1.0
) -> jax.Array:
    """Map random draws to times, as `sample_time` does.

    Args:
      draw: standard normal draws if `logit_normal`, else uniform draws in [0, 1].
      shift: as in `sample_time`.
      logit_normal: as in `sample_time`.
      mean: as in `sample_time`.
      std: as in `sample_time`.

    Returns:
      Times, of the shape of draw.
    """
    u = jax.nn.sigmoid(mean + std * draw) if logit_normal else 1 - draw
    return jnp.maximum(shift_time(u, shift), MIN_TIME)
