"""The kernel distance between two sets of features (KID if they are Inception features)."""

from collections.abc import Iterator

import numpy as np

from gmflow_jax.evaluation._checks import feature_rows, same_width

_BLOCK_ROWS = 4096


def kernel_distance(real, fake) -> float:
    r"""Return the unbiased squared maximum mean discrepancy of two sets of features.

    The kernel is $(x \cdot y / D + 1)^3$. All rows are used instead of random subsets, so the result has no
    randomness. The estimate is unbiased for any number of samples, so it can be below 0 for equal
    distributions. Published figures are often multiplied by 1000. Sums are computed in float64, in blocks.

    Args:
      real: [N, D].
      fake: [M, D].

    Returns:
      The distance.

    Raises:
      ValueError: if a value is NaN or infinite, widths differ, or a set has fewer than 2 rows.

    Source:
      KID (Binkowski et al. 2018, arXiv 1801.01401).
    """
    real, fake = (
        feature_rows(features, name, 2, "pairs of different samples are needed", _precision(features))
        for features, name in ((real, "real"), (fake, "fake"))
    )
    same_width(real.shape[1], fake.shape[1], "The real and the fake features")
    return _mean_within(real) + _mean_within(fake) - 2 * _sum(real, fake) / (len(real) * len(fake))


def _precision(features) -> type[np.floating]:
    """Return float32 if the features have it, so that large arrays are not copied, else float64."""
    return np.float32 if getattr(features, "dtype", None) == np.float32 else np.float64


def _mean_within(features: np.ndarray) -> float:
    """Return the mean kernel of all pairs of different rows."""
    total, before = 0.0, features[:0]
    for rows in _blocks(features):  # so that each pair of blocks is computed once
        with_themselves = _kernel(np.einsum("nd,nd->n", rows, rows), rows.shape[1]).sum()
        total += 2 * _sum(before, rows) + _sum(rows, rows) - with_themselves
        before = features[: len(before) + len(rows)]
    return total / (len(features) * (len(features) - 1))


def _sum(a: np.ndarray, b: np.ndarray) -> float:
    """Return the sum of the kernel over all pairs of a row of a and a row of b."""
    return sum(
        _kernel(rows_a @ rows_b.T, a.shape[1]).sum() for rows_a in _blocks(a) for rows_b in _blocks(b)
    )


def _kernel(products: np.ndarray, width: int) -> np.ndarray:
    base = products / width + 1
    return base * base * base  # many times faster than base**3


def _blocks(features: np.ndarray) -> Iterator[np.ndarray]:
    """Yield blocks of rows in float64."""
    for start in range(0, len(features), _BLOCK_ROWS):
        yield features[start : start + _BLOCK_ROWS].astype(np.float64)
