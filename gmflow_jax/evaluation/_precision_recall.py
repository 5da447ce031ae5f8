"""k-nearest-neighbour precision and recall (Kynkaanniemi et al. 2019)."""

from collections.abc import Iterator

import numpy as np

from ._checks import feature_rows, same_width

_BLOCK_ENTRIES = 2**22  # distances held at once: 32 MB


def precision_recall(real, fake, k: int = 3) -> tuple[float, float]:
    """Precision and recall of `fake` [M, D] against `real` [N, D], both in [0, 1].

    Each set's manifold is the union of balls around its points that reach to the k-th nearest
    neighbour (the point itself not counted). Precision is the share of fake points in the real
    manifold, recall the share of real points in the fake one; a point on a ball's rim is inside.
    Distances are Euclidean in float64, computed in blocks, so memory stays bounded.
    Raises ValueError for NaN, mismatched widths, k < 1, or sets of k points or fewer.
    """
    if k < 1:
        raise ValueError(f"k is {k}, but a ball needs a neighbour; give k >= 1 (3 is usual).")
    reason = f"the {k}-th neighbour of each is needed"
    real = feature_rows(real, "real", k + 1, reason)
    fake = feature_rows(fake, "fake", k + 1, reason)
    same_width(real.shape[1], fake.shape[1], "The real and the fake features")
    real_radii, fake_radii = _squared_radii(real, k), _squared_radii(fake, k)
    real_covered = np.zeros(len(real), bool)
    fake_covered = np.zeros(len(fake), bool)
    for rows, distances in _squared_distances(real, fake):
        fake_covered |= (distances <= real_radii[rows, None]).any(0)
        real_covered[rows] = (distances <= fake_radii).any(1)
    return float(fake_covered.mean()), float(real_covered.mean())


def _squared_radii(points: np.ndarray, k: int) -> np.ndarray:
    """Squared distance [N] to the k-th neighbour; the nearest of all is the point itself."""
    return np.concatenate(
        [np.partition(distances, k, 1)[:, k] for _, distances in _squared_distances(points, points)]
    )


def _squared_distances(a: np.ndarray, b: np.ndarray) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield (rows of a, squared distances of those rows to all of b), block by block."""
    norm_a, norm_b = (a**2).sum(1)[:, None], (b**2).sum(1)
    num_rows = max(1, _BLOCK_ENTRIES // len(b))
    for start in range(0, len(a), num_rows):
        rows = slice(start, start + num_rows)
        norms = norm_a[rows] + norm_b
        distances = norms - 2 * (a[rows] @ b.T)
        # Copies of a point must be at distance 0, or balls of radius 0 lose them to rounding.
        distances[distances < 1e-14 * norms] = 0.0
        yield rows, distances
