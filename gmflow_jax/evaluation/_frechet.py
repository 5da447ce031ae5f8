"""The Frechet distance between Gaussians fitted to features (FID if they are Inception features)."""

import numpy as np

from gmflow_jax.evaluation._checks import finite, same_width
from gmflow_jax.evaluation._statistics import FeatureStatistics


def feature_statistics(features) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the unbiased covariance (divisor N - 1) of features.

    Args:
      features: [N, D].

    Returns:
      Mean [D] and covariance [D, D], float64.

    Raises:
      ValueError: if a value is NaN or infinite, the shape is another one, or there are fewer than 2 samples.
    """
    statistics = FeatureStatistics.of(features)
    return statistics.mean, statistics.covariance


def frechet_distance(mean_1, cov_1, mean_2, cov_2) -> float:
    r"""Return the squared Frechet (2-Wasserstein) distance between two Gaussians.

    $$|m_1 - m_2|^2 + \mathrm{tr}(C_1 + C_2 - 2 (C_1 C_2)^{1/2})$$

    It is exact for rank-deficient covariances too, as of fewer samples than D.

    Args:
      mean_1: [D].
      cov_1: [D, D].
      mean_2: [D].
      cov_2: [D, D].

    Returns:
      The distance, 0 or more.

    Raises:
      ValueError: if a value is NaN or infinite, shapes differ, or a covariance is not symmetric and positive
        semi-definite.

    Source:
      FID (Heusel et al. 2017, arXiv 1706.08500).
    """
    mean_1, mean_2 = finite(mean_1, "mean_1"), finite(mean_2, "mean_2")
    cov_1, cov_2 = finite(cov_1, "cov_1"), finite(cov_2, "cov_2")
    same_width(mean_1.size, mean_2.size, "The two means")
    for mean, cov, name in ((mean_1, cov_1, "cov_1"), (mean_2, cov_2, "cov_2")):
        if mean.ndim != 1 or cov.shape != (mean.size, mean.size):
            raise ValueError(
                f"The mean has shape {mean.shape} and {name} {cov.shape}, but they must be [D] "
                "and [D, D]; pass them as feature_statistics returns them."
            )
    # tr (C1 C2)^(1/2) is the sum of the singular values of F1^T F2 with C = F F^T. Unlike roots
    # of eigenvalues of a product, they don't turn rounding of 1e-16 into errors of 1e-8.
    cross = np.linalg.svd(_factor(cov_1, "cov_1").T @ _factor(cov_2, "cov_2"), compute_uv=False)
    distance = (
        np.sum((mean_1 - mean_2) ** 2) + np.trace(cov_1) + np.trace(cov_2) - 2 * cross.sum()
    )
    return float(max(distance, 0.0))  # rounding may be negative for equal inputs


def check_covariance(cov: np.ndarray, name: str, eigenvalues: np.ndarray | None = None) -> None:
    """Check that a matrix is symmetric and positive semi-definite, up to rounding.

    Args:
      cov: [D, D].
      name: name of the matrix in the error message.
      eigenvalues: its eigenvalues in ascending order; None computes them.

    Raises:
      ValueError: if it is not.
    """
    if not np.allclose(cov, cov.T, rtol=1e-6, atol=1e-6 * np.abs(cov).max()):
        raise ValueError(
            f"{name} is not symmetric, so it is not a covariance; check the order of the arguments "
            "(mean_1, cov_1, mean_2, cov_2)."
        )
    values = np.linalg.eigvalsh(cov) if eigenvalues is None else eigenvalues
    # Rounding of float32 covariances gives eigenvalues of about -1e-7 of the largest, not of -1e-3.
    if values[0] < -1e-3 * max(values[-1], 0.0):
        raise ValueError(
            f"{name} has the eigenvalue {values[0]:.3g} next to the largest {values[-1]:.3g}, so "
            "it is not a covariance; compute it with feature_statistics."
        )


def _factor(cov: np.ndarray, name: str) -> np.ndarray:
    """Return F [D, rank] with F F^T = cov."""
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    check_covariance(cov, name, values)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])
