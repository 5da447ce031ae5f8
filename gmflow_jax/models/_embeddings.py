"""Sine and cosine features of time, grid positions and points."""

import jax
import jax.numpy as jnp
import numpy as np

TIME_SCALE = 1000.0  # the authors' networks were trained on times in [0, 1000]


def batch_time(t: jax.Array | float, batch: int) -> jax.Array:
    """Expand a time, a scalar or [B], to float32 [B].

    Raises:
      ValueError: if the time has another shape.
    """
    t = jnp.asarray(t, jnp.float32)
    if t.ndim == 0:
        return jnp.full((batch,), t)
    if t.shape != (batch,):
        raise ValueError(
            f"The time has shape {t.shape}, but the batch has {batch} samples; "
            f"give a scalar or one time for each sample, shape ({batch},)."
        )
    return t


def time_features(
    t: jax.Array, num_features: int, freq_shift: int = 0, scale: float = TIME_SCALE
) -> jax.Array:
    """Compute the cosines, then the sines, of the time at frequencies from `scale` to `scale` / 10,000.

    The frequencies are radians per unit of time and spaced geometrically.

    Args:
      t: time in [0, 1], [B].
      num_features: number of features, even.
      freq_shift: 1 includes the lowest frequency, `scale` / 10,000, as in the authors' 2-D network;
        0 stops one frequency before it, as in GM-DiT.
      scale: highest frequency.

    Returns:
      [B, num_features], float32.

    Source:
      The code of DiT, TimestepEmbedder; the authors' code.
    """
    half = num_features // 2
    freqs = np.exp(-np.log(10000.0) * np.arange(half) / (half - freq_shift)).astype(np.float32)
    angles = (t * scale)[:, None] * freqs[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def position_table(
    grid: tuple[int, int], base_grid: tuple[int, int], num_features: int
) -> np.ndarray:
    """Compute the fixed position features of a grid.

    The first half of the features encodes the column, the second half the row, each as sines, then
    cosines. Positions are rescaled so that every grid spans the same range as `base_grid`.

    Args:
      grid: number of rows and columns of tokens.
      base_grid: number of rows and columns that the network was made for.
      num_features: number of features, a multiple of 4.

    Returns:
      [rows * columns, num_features] in row-major order; computed in float64, returned in float32.

    Source:
      The code of DiT, get_2d_sincos_pos_embed; diffusers, PatchEmbed, for the rescaling.
    """
    quarter = num_features // 4
    freqs = 10000.0 ** -(np.arange(quarter) / quarter)
    axes = []
    for size, base in zip(grid, base_grid, strict=True):
        angles = np.outer(np.arange(size) * (base / size), freqs)
        axes.append(np.concatenate([np.sin(angles), np.cos(angles)], axis=-1))
    rows, columns = axes
    table = np.concatenate(
        [np.tile(columns, (grid[0], 1)), np.repeat(rows, grid[1], axis=0)], axis=-1
    )
    return table.astype(np.float32)


def point_features(x: jax.Array, num_periods: int, min_period: float, max_period: float) -> jax.Array:
    """Compute the sines, then the cosines, of each coordinate at geometrically spaced periods.

    Args:
      x: points, [B, D], in the units of the periods.
      num_periods: number of periods.
      min_period: shortest period.
      max_period: longest period.

    Returns:
      [B, D * 2 * num_periods], coordinate by coordinate.
    """
    periods = np.geomspace(min_period, max_period, num_periods)[None, None, :]
    # A coordinate may span a thousand periods, and x / period in float32 would then leave a phase accurate
    # to 1e-4 only. So whole periods are subtracted first. The period is split into two parts; the first
    # has 11 bits, so that its multiples are exact.
    fraction, exponent = np.frexp(periods)
    coarse = np.ldexp(np.round(fraction * 2**11) / 2**11, exponent)
    fine, coarse, periods = (a.astype(np.float32) for a in (periods - coarse, coarse, periods))
    whole = jnp.round(x[..., None] / periods)
    rest = (x[..., None] - whole * coarse) - whole * fine
    angles = 2 * np.pi * rest / periods
    features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jax.lax.collapse(features, 1)
