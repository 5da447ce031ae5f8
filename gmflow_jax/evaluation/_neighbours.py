"""Blockwise distances between two sets of features, and distances to the k-th neighbour."""

from collections.abc import Callable, Iterable, Iterator
from typing import Literal, get_args

import numpy as np

from gmflow_jax.evaluation._checks import feature_rows, same_width

Progress = Callable[[Iterable], Iterable]
DType = Literal["float32", "float64", "float16", "float16_radii"]
"""How distances are rounded, see `precision_recall`."""

_BLOCK_ENTRIES = 2**24  # distances held at once: 64 MB in float32
_MEDIAN_ROWS = 1000


def comparable(real, fake, k: int, dtype: DType) -> tuple[np.ndarray, np.ndarray]:
    """Check two sets of features, and convert them to the precision of the distances.

    Unless `dtype` is 'float16', a central point is subtracted from both, which makes distances more exact.

    Args:
      real: [N, D].
      fake: [M, D].
      k: each point needs a k-th nearest neighbour.
      dtype: how distances are rounded, see `precision_recall`.

    Returns:
      Both sets.

    Raises:
      ValueError: if a value is NaN or infinite, widths differ, `dtype` is unknown, k < 1, or a set has k rows
        or fewer.
    """
    if k < 1:
        raise ValueError(f"k is {k}, but a ball needs a neighbour; give k >= 1 (3 is usual).")
    if dtype not in get_args(DType):
        raise ValueError(f"dtype is {dtype!r}; give one of {', '.join(map(repr, get_args(DType)))}.")
    precision = np.float64 if dtype == "float64" else np.float32
    reason = f"the {k}-th neighbour of each is needed"
    real = feature_rows(real, "real", k + 1, reason, precision)
    fake = feature_rows(fake, "fake", k + 1, reason, precision)
    same_width(real.shape[1], fake.shape[1], "The real and the fake features")
    if dtype == "float16":
        return _half(real), _half(fake)
    # The lower quantile is a value of a sample, unlike a mean: differences of numbers with few digits,
    # such as pixels, stay exact, and with them the points on the surface of a ball.
    center = np.quantile(real[:_MEDIAN_ROWS], 0.5, axis=0, method="lower")
    return real - center, fake - center


def squared_radii(points: np.ndarray, k: int, dtype: DType, progress: Progress | None) -> np.ndarray:
    """Return the squared distance of each point to its k-th neighbour, not counting the point itself.

    Args:
      points: [N, D].
      k: which neighbour; 1 is the nearest.
      dtype: how distances are rounded, see `precision_recall`.
      progress: wraps the list of blocks, or None.

    Returns:
      [N].
    """
    radii = []
    for _, distances in squared_distances(points, points, dtype, progress):
        distances.partition(k, axis=1)
        radii.append(distances[:, k].copy())
    radii = np.concatenate(radii)
    return _half(np.sqrt(radii)) ** 2 if dtype == "float16_radii" else radii


def squared_distances(
    a: np.ndarray, b: np.ndarray, dtype: DType, progress: Progress | None
) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield the squared distances between two sets of points, block by block.

    Args:
      a: [N, D].
      b: [M, D].
      dtype: how distances are rounded, see `precision_recall`.
      progress: wraps the list of blocks, or None.

    Yields:
      A slice of rows of `a`, and the squared distances [rows, M] of these rows to all of `b`.
    """
    rounded = _half if dtype == "float16" else lambda values: values
    norm_a, norm_b = (rounded(rounded(points**2).sum(1)) for points in (a, b))
    # Copies of a point need the distance 0: with a rounding error they would be outside balls of radius 0.
    negligible = 90 * np.finfo(a.dtype).eps * norm_a[:, None]
    num_rows = max(1, _BLOCK_ENTRIES // len(b))
    blocks = [slice(start, start + num_rows) for start in range(0, len(a), num_rows)]
    for rows in progress(blocks) if progress else blocks:
        distances = rounded(a[rows] @ b.T)
        distances *= -2
        distances += norm_a[rows, None]
        distances = rounded(distances)
        distances += norm_b
        distances = rounded(distances)
        distances[distances < negligible[rows]] = 0
        yield rows, distances


def _half(values: np.ndarray) -> np.ndarray:
    """Round float32 values to float16 precision; raise ValueError if they are too large for it."""
    with np.errstate(over="ignore"):
        values = values.astype(np.float16)
    if not np.isfinite(values).all():
        raise ValueError(
            "A feature or a squared distance exceeds 65504, the largest number of float16; use "
            "dtype='float32', as ADM's evaluator does then."
        )
    return values.astype(np.float32)
