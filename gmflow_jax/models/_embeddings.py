"""Sine and cosine features of time, grid positions and points."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

TIME_SCALE = 1000.0  # the authors' networks were trained on times in [0, 1000]


def batch_time(t: Array | float, batch: int) -> Array:
    """Time as float32 [B], from a scalar or [B]. Raises ValueError for any other shape."""
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
    t: Array, num_features: int, freq_shift: int = 0, scale: float = TIME_SCALE
) -> Array:
    """Cosines, then sines, of the time at geometric frequencies from `scale` to `scale` / 10,000 radians.

    `t` is [B] in [0, 1]; the result is [B, num_features], float32. `freq_shift` is 0 where the
    lowest frequency is excluded (GM-DiT) and 1 where it is reached (the 2-D network), as in the
    authors' models.
    """
    half = num_features // 2
    freqs = np.exp(-np.log(10000.0) * np.arange(half) / (half - freq_shift)).astype(np.float32)
    angles = (t * scale)[:, None] * freqs[None, :]
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def position_table(
    grid: tuple[int, int], base_grid: tuple[int, int], num_features: int
) -> np.ndarray:
    """Fixed features of the positions in a grid, [rows * columns, num_features], rows first.

    The first half of the features encodes the column, the second half the row, each as sines, then
    cosines. Positions are rescaled so that any grid spans the same range as `base_grid`, the grid
    that the network was made for. Computed in float64, returned in float32.
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


def point_features(x: Array, num_periods: int, min_period: float, max_period: float) -> Array:
    """Sines, then cosines, of each coordinate at geometric periods.

    `x` is [B, D] in the units of the periods; the result is [B, D * 2 * num_periods], coordinate by
    coordinate.
    """
    periods = np.geomspace(min_period, max_period, num_periods)[None, None, :]
    # A coordinate may span a thousand periods, of which float32 leaves a phase accurate to 1e-4. So
    # whole periods are taken off first, in two parts of which the first has 11 bits: no rounding.
    fraction, exponent = np.frexp(periods)
    coarse = np.ldexp(np.round(fraction * 2**11) / 2**11, exponent)
    fine, coarse, periods = (a.astype(np.float32) for a in (periods - coarse, coarse, periods))
    whole = jnp.round(x[..., None] / periods)
    rest = (x[..., None] - whole * coarse) - whole * fine
    angles = 2 * np.pi * rest / periods
    features = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jax.lax.collapse(features, 1)
