"""The 8 x 8 digits of scikit-learn: training data, scores and pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common import figures
from experiments.tasks.rows import ReportRow
from gmflow_jax import data, evaluation, models

BLOCK = 2  # the digits' mixture pixels hold 2 x 2 real ones, so that D = 4


class DigitsTask:
    """Class-conditional generation of scikit-learn's 1,797 real 8 x 8 digits."""

    sample_shape = (8 // BLOCK, 8 // BLOCK, BLOCK * BLOCK)
    is_image = True
    metadata = None  # the data need no note in a run's folder
    sample_batch_size = 300  # fits a CPU's cache: 1.4 times as fast as 1,797 at once
    score_names = ("frechet", "precision", "recall", "accuracy")

    def __init__(self):
        digits = data.digits()
        self.class_names = digits.class_names
        self.labels = digits.labels
        self._x_0 = np.asarray(models.space_to_depth(digits.images, BLOCK))
        self._pixels = data.to_unit_range(digits.images)[..., 0]
        self._classifier = None

    def batches(self, batch_size: int, seed: int) -> data.Batches:
        return data.Batches({"x_0": self._x_0, "labels": self.labels}, batch_size, seed)

    def evaluation_batches(self, batch_size: int, seed: int) -> data.Batches:
        return self.batches(batch_size, seed + 1)

    def picture(self, path, x) -> None:
        figures.image_grid(path, self.decode(x)[..., None])

    @property
    def training_data(self) -> tuple[np.ndarray, np.ndarray]:
        """x_0 [N, 4, 4, 4] in the model's space, and its labels [N]."""
        return self._x_0, self.labels

    def decode(self, x) -> np.ndarray:
        """Model outputs [N, 4, 4, 4] to pixels [N, 8, 8] in [0, 1]."""
        return data.to_unit_range(models.depth_to_space(x, BLOCK))[..., 0]

    @property
    def evaluation_labels(self) -> np.ndarray:
        """The labels that reports sample: as many of each class as the real set has."""
        return self.labels

    def labels_of_samples(self, num_samples: int) -> np.ndarray:
        """Labels for another number of samples."""
        return np.resize(self.labels, num_samples)

    def score(self, samples: np.ndarray, labels: np.ndarray) -> evaluation.DigitScores:
        return evaluation.digit_scores(self._pixels, samples, labels, self._fitted_classifier())

    def reference_rows(self) -> list[tuple[str, dict]]:
        """Scores of real digits and of a simple model, that give the others a scale."""
        halves = evaluation.real_half_scores(self._pixels, self.labels, num_seeds=4)
        gaussians = evaluation.class_gaussian_scores(
            self._pixels, self.labels, self._fitted_classifier(), num_seeds=4
        )
        return [
            ("real halves, n = 898", evaluation.mean_and_std(halves)),
            ("one Gaussian per class", evaluation.mean_and_std(gaussians)),
        ]

    def draw(self, path, rows: Sequence[ReportRow]) -> None:
        first = [int(np.flatnonzero(self.labels == c)[0]) for c in range(len(self.class_names))]
        pictures = [("real", self._pixels[first])]
        pictures += [((row.solver, str(row.nfe)), row.samples[first]) for row in rows]
        figures.digit_grid(path, pictures)

    def _fitted_classifier(self) -> Any:
        if self._classifier is None:
            self._classifier = evaluation.fit_digit_classifier(self._pixels, self.labels)
        return self._classifier
