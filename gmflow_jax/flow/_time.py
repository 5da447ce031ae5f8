"""Time grids for sampling and time draws for training; the shift moves both towards the noise."""

import jax
import jax.numpy as jnp

# sample_time never returns less, so that 1 / t stays far from overflow in any loss.
MIN_TIME = 1e-6


def shift_time(u: jax.Array, shift: float) -> jax.Array:
    """shift u / (1 + (shift - 1) u): [0, 1] onto itself, more of it near 1 for shift > 1."""
    return shift * u / (1 + (shift - 1) * u)


def unshift_time(t: jax.Array, shift: float) -> jax.Array:
    """The inverse of `shift_time`."""
    return t / (shift - (shift - 1) * t)


def check_shift(shift: float) -> None:
    if not shift > 0:
        raise ValueError(
            f"shift must be positive, but {shift} was given. 1 is no shift, larger means more noise."
        )


def time_grid(num_steps: int, shift: float = 1.0) -> jax.Array:
    """The times of a sampler, [num_steps + 1], from 1 down to 0, uniform before the shift."""
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, but {num_steps} was given.")
    check_shift(shift)
    return shift_time(1 - jnp.arange(num_steps + 1) / num_steps, shift)


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
      shift: moves the draws towards 1 (> 1) or 0 (< 1).
      logit_normal: sigmoid(mean + std * normal), else uniform.
      mean, std: of the logit (Esser et al. 2024); unused for uniform draws.
    """
    check_shift(shift)
    sampler = jax.random.normal if logit_normal else jax.random.uniform
    draw = sampler(key, shape, jnp.float32)
    return time_from_draw(draw, shift, logit_normal, mean, std)


def time_from_draw(
    draw: jax.Array, shift: float = 1.0, logit_normal: bool = True, mean: float = 0.0, std: float = 1.0
) -> jax.Array:
    """The time that a given standard normal (or uniform) draw stands for."""
    u = jax.nn.sigmoid(mean + std * draw) if logit_normal else 1 - draw
    return jnp.maximum(shift_time(u, shift), MIN_TIME)
