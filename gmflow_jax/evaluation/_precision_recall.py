"""Precision, recall, density and coverage: how much of a set of features lies near another set."""

import numpy as np

from gmflow_jax.evaluation._neighbours import DType, Progress, comparable, squared_distances, squared_radii


def precision_recall(
    real, fake, k: int = 3, dtype: DType = "float32", progress: Progress | None = None
) -> tuple[float, float]:
    """Return the precision and the recall of generated features against real ones.

    The manifold of a set is the union of balls around its points, each of which reaches to the k-th nearest
    neighbour, not counting the point itself. Precision is the share of fake points in the real manifold,
    recall the share of real points in the fake manifold. A point on the surface of a ball is inside.

    Memory holds a copy of the features and one block of distances.

    Args:
      real: [N, D].
      fake: [M, D].
      k: the distance to the k-th nearest neighbour is the radius of a ball.
      dtype: how distances are rounded.
        'float32' or 'float64': computed in that precision. Two points count as copies if their squared
        distance is below 1e-5 (float64: 2e-14) times the squared distance of a point from the median of the
        features.
        'float16': features and every step of |a|^2 - 2 a.b + |b|^2 are rounded to float16, and sums are
        accumulated in float32, as in ADM's evaluator (Dhariwal & Nichol 2021). Results differ by up to 0.01.
        The rounding of sums depends on the machine: a run of that evaluator on a CPU differed by one point
        in 420.
        'float16_radii': float32 with radii rounded to float16, as in the evaluators of StyleGAN2-ADA and of
        GMFlow, and so in GMFlow's published figures.
      progress: wraps the list of blocks of each of three passes (real to real, fake to fake, real to fake),
        for instance `tqdm`; None is no display.

    Returns:
      Precision and recall, in [0, 1].

    Raises:
      ValueError: if a value is NaN or infinite, widths differ, `dtype` is unknown, k < 1, or a set has k
        points or fewer.

    Source:
      Kynkaanniemi et al. 2019 (arXiv 1904.06991).
    """
    real, fake = comparable(real, fake, k, dtype)
    real_radii = squared_radii(real, k, dtype, progress)
    fake_radii = squared_radii(fake, k, dtype, progress)
    real_covered = np.zeros(len(real), bool)
    fake_covered = np.zeros(len(fake), bool)
    for rows, distances in squared_distances(real, fake, dtype, progress):
        fake_covered |= (distances <= real_radii[rows, None]).any(0)
        real_covered[rows] = (distances <= fake_radii).any(1)
    return float(fake_covered.mean()), float(real_covered.mean())


def density_coverage(
    real, fake, k: int = 5, dtype: DType = "float32", progress: Progress | None = None
) -> tuple[float, float]:
    """Return the density and the coverage of generated features against real ones.

    Density is the mean number of real points' balls that a fake point lies in, divided by k; it can exceed 1.
    Coverage is the share of real points whose ball contains a fake point. Unlike precision and recall, they
    do not depend on balls around the fake points, which outliers make large.

    Args:
      real: [N, D].
      fake: [M, D].
      k: the distance to the k-th nearest neighbour is the radius of a ball.
      dtype: how distances are rounded, see `precision_recall`.
      progress: wraps the list of blocks of each of two passes; None is no display.

    Returns:
      Density and coverage.

    Raises:
      ValueError: as `precision_recall`.

    Source:
      Naeem et al. 2020 (arXiv 2002.09797).
    """
    real, fake = comparable(real, fake, k, dtype)
    radii = squared_radii(real, k, dtype, progress)
    num_inside = np.concatenate([
        (distances <= radii[rows, None]).sum(1)
        for rows, distances in squared_distances(real, fake, dtype, progress)
    ])
    return float(num_inside.sum() / (k * len(fake))), float((num_inside > 0).mean())
