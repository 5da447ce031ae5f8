"""Mean and covariance of features that arrive in batches or on several hosts."""

import dataclasses

import jax
import numpy as np

from gmflow_jax.evaluation._checks import feature_rows, same_width


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """What the Frechet distance needs to know of features, without the features; a float64 pytree.

    Merged in any order, in batches of any size, statistics are those of all samples at once to about
    1e-14: the parallel update of Chan et al. (1979) subtracts no large sums from one another, and the mean
    carries along what rounding takes from it, as it may be large next to the spread.

    Attributes:
      num_samples: Number of samples seen.
      mean: Their mean [D]; zeros where there are none.
      mean_tail: The mean to twice the precision is mean + mean_tail [D].
      scatter: Sum [D, D] over samples of the outer product of the deviation from the mean with itself.
    """

    num_samples: int
    mean: np.ndarray
    mean_tail: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, width: int) -> "FeatureStatistics":
        """Statistics of no samples of `width` features, from which merging may start."""
        return cls(0, np.zeros(width), np.zeros(width), np.zeros((width, width)))

    @classmethod
    def of(cls, features) -> "FeatureStatistics":
        """Statistics of features [N, D], N >= 1. Raises ValueError for NaN or another shape."""
        features = feature_rows(features, "features", 1, "a mean needs one", np.float64)
        rough = features.mean(0)
        deviations = features - rough
        correction = deviations.mean(0)
        deviations -= correction
        return cls(len(features), *_add(rough, correction), deviations.T @ deviations)

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Statistics of both sets of samples. Raises ValueError if their widths differ."""
        same_width(self.mean.size, other.mean.size, "The two statistics")
        num_samples = self.num_samples + other.num_samples
        share = other.num_samples / max(num_samples, 1)
        step = (other.mean - self.mean) + (other.mean_tail - self.mean_tail)
        between = self.num_samples * share * np.outer(step, step)
        return FeatureStatistics(
            num_samples,
            *_add(self.mean, self.mean_tail + share * step),
            self.scatter + other.scatter + between,
        )

    @property
    def covariance(self) -> np.ndarray:
        """Unbiased covariance [D, D] (divisor N - 1). Raises ValueError for fewer than 2 samples."""
        if self.num_samples < 2:
            raise ValueError(
                f"There are too few samples, {self.num_samples}, for a covariance; give at least 2, and more "
                "than the features are wide if it is to have full rank."
            )
        return self.scatter / (self.num_samples - 1)


def _add(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounded a + b and what rounding took from it, exactly (Knuth's sum)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)
