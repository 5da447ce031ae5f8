"""How much of one set of features lies near another: precision, recall, density, coverage."""

import numpy as np

from gmflow_jax.evaluation._neighbours import DType, Progress, comparable, squared_distances, squared_radii


def precision_recall(
    real, fake, k: int = 3, dtype: DType = "float32", progress: Progress | None = None
) -> tuple[float, float]:
    """Precision and recall of `fake` [M, D] against `real` [N, D] (Kynkaanniemi et al. 2019), in [0, 1].

    Each set's manifold is the union of balls around its points that reach to the k-th nearest
    neighbour (the point itself not counted). Precision is the share of fake points in the real
    manifold, recall the share of real points in the fake one; a point on a ball's rim is inside.

    `dtype` decides how distances are rounded:

    - "float32" or "float64": not beyond the precision that they are computed in. Points are copies if
      their squared distance is below 1e-5 (float64: 2e-14) of that from the features' median.
    - "float16": features and every step of |a|^2 - 2 a.b + |b|^2 rounded to float16, sums accumulated in
      float32: the rule of ADM's evaluator (Dhariwal & Nichol 2021). Figures move by up to 0.01. How
      sums are rounded depends on its machine: a run of it on a CPU differed by one point in 420.
    - "float16_radii": float32 with radii rounded to float16, as the evaluators of StyleGAN2-ADA and of
      GMFlow (whose published figures these are).

    Memory holds a copy of the features and one block of distances. `progress`, for instance `tqdm`, wraps
    the list of blocks of each of three passes: real to real, fake to fake, real to fake.
    Raises ValueError for NaN, mismatched widths, k < 1, or sets of k points or fewer.
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
    """Density and coverage of `fake` [M, D] against `real` [N, D] (Naeem et al. 2020).

    Density is the number of real points' balls that a fake point lies in, averaged and divided by k; it
    can exceed 1. Coverage is the share of real points whose ball holds a fake point. Unlike precision and
    recall, neither is swayed by outliers among the fakes. Balls, `dtype`, `progress` and errors are
    those of `precision_recall`.
    """
    real, fake = comparable(real, fake, k, dtype)
    radii = squared_radii(real, k, dtype, progress)
    num_inside = np.concatenate([
        (distances <= radii[rows, None]).sum(1)
        for rows, distances in squared_distances(real, fake, dtype, progress)
    ])
    return float(num_inside.sum() / (k * len(fake))), float((num_inside > 0).mean())
