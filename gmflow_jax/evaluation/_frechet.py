"""The Frechet distance between two Gaussians fitted to features (FID on Inception features)."""

import numpy as np

from gmflow_jax.evaluation._checks import finite, same_width
from gmflow_jax.evaluation._statistics import FeatureStatistics


def feature_statistics(features) -> tuple[np.ndarray, np.ndarray]:
    """Mean [D] and unbiased covariance [D, D] (divisor N - 1) of features [N, D], in float64.

    Raises ValueError for NaN, for a shape other than [N, D], and for fewer than 2 samples.
    """
    statistics = FeatureStatistics.of(features)
    return statistics.mean, statistics.covariance


def frechet_distance(mean_1, cov_1, mean_2, cov_2) -> float:
    """Squared 2-Wasserstein distance of N(mean_1, cov_1) and N(mean_2, cov_2) (Heusel et al. 2017).

    Means [D], covariances [D, D]; rank-deficient covariances (fewer samples than D) are exact.
    Raises ValueError for NaN, mismatched widths, or covariances that aren't symmetric and
    positive semi-definite.
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
    return float(max(distance, 0.0))  # equal inputs leave rounding of either sign


def check_covariance(cov: np.ndarray, name: str, eigenvalues: np.ndarray | None = None) -> None:
    """ValueError if a matrix is not symmetric and positive semi-definite, up to rounding."""
    if not np.allclose(cov, cov.T, rtol=1e-6, atol=1e-6 * np.abs(cov).max()):
        raise ValueError(
            f"{name} is not symmetric, so it is no covariance; check the order of the arguments "
            "(mean_1, cov_1, mean_2, cov_2)."
        )
    values = np.linalg.eigvalsh(cov) if eigenvalues is None else eigenvalues
    # float32 covariances round to eigenvalues of about -1e-7 of the largest; -1e-3 is no rounding.
    if values[0] < -1e-3 * max(values[-1], 0.0):
        raise ValueError(
            f"{name} has the eigenvalue {values[0]:.3g} next to the largest {values[-1]:.3g}, so "
            "it is no covariance; compute it with feature_statistics."
        )


def _factor(cov: np.ndarray, name: str) -> np.ndarray:
    """F [D, rank] with F F^T = cov."""
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    check_covariance(cov, name, values)
    kept = values > values[-1] * len(values) * np.finfo(np.float64).eps
    return vectors[:, kept] * np.sqrt(values[kept])
