"""Mean and covariance of features that come in batches or from several hosts."""

import dataclasses

import jax
import numpy as np

from gmflow_jax.evaluation._checks import feature_rows, same_width


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Statistics of features that the Frechet distance is computed from; a float64 pytree.

    Statistics of batches of any size, merged in any order, equal those of all samples at once to about 1e-14.
    The parallel update of Chan et al. (1979) subtracts no large sums from one another, and the rounding error
    of the mean is kept, since the mean may be large compared with the standard deviation.

    Attributes:
      num_samples: number of samples.
      mean: their mean [D]; zeros if there are none.
      mean_tail: rounding error of the mean: mean + mean_tail has twice the precision [D].
      scatter: sum over the samples of the outer product of the deviation from the mean with itself [D, D].
    """

    num_samples: int
    mean: np.ndarray
    mean_tail: np.ndarray
    scatter: np.ndarray

    @classmethod
    def empty(cls, width: int) -> "FeatureStatistics":
        """Return the statistics of no samples, a start for merging."""
        return cls(0, np.zeros(width), np.zeros(width), np.zeros((width, width)))

    @classmethod
    def of(cls, features) -> "FeatureStatistics":
        """Return the statistics of features [N, D], N >= 1.

        Raises:
          ValueError: if a value is NaN or infinite, or the shape is another one.
        """
        features = feature_rows(features, "features", 1, "a mean needs one", np.float64)
        rough = features.mean(0)
        deviations = features - rough
        correction = deviations.mean(0)
        deviations -= correction
        return cls(len(features), *_add(rough, correction), deviations.T @ deviations)

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """Return the statistics of both sets of samples.

        Raises:
          ValueError: if the widths differ.
        """
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
        """Unbiased covariance [D, D] (divisor N - 1).

        Raises:
          ValueError: if there are fewer than 2 samples.
        """
        if self.num_samples < 2:
            raise ValueError(
                f"There are too few samples, {self.num_samples}, for a covariance; give at least 2, and more "
                "than the features are wide if it is to have full rank."
            )
        return self.scatter / (self.num_samples - 1)


def _add(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rounded sum a + b and its exact rounding error (Knuth's two-sum)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)
