"""The 8 x 8 digits of scikit-learn: training data, scores and pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from experiments.common import figures
from experiments.tasks.rows import ReportRow
from gmflow_jax import data, evaluation, models

BLOCK = 2  # a pixel of the mixture is a block of 2 x 2 pixels of the image, so that D = 4


class DigitsTask:
    """Class-conditional generation of the 1,797 real 8 x 8 digits of scikit-learn.

    `held_out` is the number of digits, the last ones of the data, that are not trained on. Samples are scored
    against all digits.
    """

    image_size = (8, 8)
    sample_shape = (8 // BLOCK, 8 // BLOCK, BLOCK * BLOCK)
    is_image = True
    metadata = None  # a run's folder needs no description of these data
    sample_batch_size = 300  # fits into a CPU's cache, and is 1.4 times as fast as 1,797
    score_names = ("frechet", "precision", "recall", "accuracy")

    def __init__(self, held_out: int = 0):
        digits = data.digits()
        num_digits = len(digits.labels)
        whole = isinstance(held_out, int) and not isinstance(held_out, bool)
        if not whole or not 0 <= held_out < num_digits:
            raise ValueError(
                f"data.held_out is {held_out}, but must be a number of digits from 0 to {num_digits - 1}, "
                "which leaves at least one to train on."
            )
        self.class_names = digits.class_names
        self.labels = digits.labels
        self._num_trained = num_digits - held_out
        self._x_0 = np.asarray(models.space_to_depth(digits.images, BLOCK))
        self._pixels = data.to_unit_range(digits.images)[..., 0]
        self._classifier = None

    def batches(self, batch_size: int, seed: int) -> data.Batches:
        """Return batch_fn(step, rows=None), which gives the training batch of a step."""
        x_0, labels = self.training_data
        return data.Batches({"x_0": x_0, "labels": labels}, batch_size, seed)

    def evaluation_batches(self, batch_size: int, seed: int) -> data.Batches:
        """Return a batch_fn of the same digits in another order."""
        return self.batches(batch_size, seed + 1)

    def picture(self, path, x) -> None:
        """Draw a grid of model outputs [N, 4, 4, 4]."""
        figures.image_grid(path, self.decode(x)[..., None])

    @property
    def training_data(self) -> tuple[np.ndarray, np.ndarray]:
        """x_0 [N, 4, 4, 4] in the model's space, and labels [N]."""
        return self._x_0[: self._num_trained], self.labels[: self._num_trained]

    def decode(self, x) -> np.ndarray:
        """Convert model outputs [N, 4, 4, 4] to pixels [N, 8, 8] in [0, 1]."""
        return data.to_unit_range(models.depth_to_space(x, BLOCK))[..., 0]

    def encode(self, pixels) -> np.ndarray:
        """Convert pixels [N, 8, 8] to the network's space [N, 4, 4, 4], the inverse of `decode`."""
        return np.asarray(models.space_to_depth(np.asarray(pixels)[..., None] * 2 - 1, BLOCK))

    def encode_mask(self, mask) -> np.ndarray:
        """Convert a mask of pixels [N, 8, 8] to one of the mixture's pixels, [N, 4, 4].

        Raises ValueError if it splits one of them, which are blocks of 2 x 2 pixels.
        """
        blocks = np.asarray(models.space_to_depth(np.asarray(mask)[..., None], BLOCK))
        split = np.argwhere(blocks.any(-1) != blocks.all(-1))
        if len(split):
            image, row, column = (int(i) for i in split[0])
            raise ValueError(
                f"The mask of image {image} splits the block of {BLOCK} x {BLOCK} pixels at row "
                f"{row * BLOCK} and column {column * BLOCK}. The network draws such a block as one pixel, so "
                "that it is known as a whole or not at all: let the mask change at even rows and columns."
            )
        return blocks.all(-1)

    @property
    def evaluation_labels(self) -> np.ndarray:
        """Labels of the samples in reports: as many of each class as among the real digits."""
        return self.labels

    def labels_of_samples(self, num_samples: int) -> np.ndarray:
        """Return labels for any number of samples, in the order of the real digits."""
        return np.resize(self.labels, num_samples)

    def score(
        self, samples: np.ndarray, labels: np.ndarray | None, real: np.ndarray | None = None
    ) -> evaluation.DigitScores:
        """Score pixels [N, 8, 8] in [0, 1], drawn for labels [N], against the real digits.

        `real` are others to compare with, [M, 8, 8]. Without labels there is no accuracy.
        """
        real = self._pixels if real is None else real
        classifier = None if labels is None else self._fitted_classifier()
        return evaluation.digit_scores(real, samples, labels, classifier)

    def reference_rows(self) -> list[tuple[str, dict]]:
        """Return the scores of real digits and of a simple model, for comparison in reports."""
        halves = evaluation.real_half_scores(self._pixels, self.labels, num_seeds=4)
        gaussians = evaluation.class_gaussian_scores(
            self._pixels, self.labels, self._fitted_classifier(), num_seeds=4
        )
        return [
            ("real halves, n = 898", evaluation.mean_and_std(halves)),
            ("one Gaussian per class", evaluation.mean_and_std(gaussians)),
        ]

    def draw(self, path, rows: Sequence[ReportRow]) -> None:
        """Draw the picture of a report: a digit of each class, real and of each row."""
        first = [int(np.flatnonzero(self.labels == c)[0]) for c in range(len(self.class_names))]
        pictures = [("real", self._pixels[first])]
        pictures += [((row.solver, str(row.nfe)), row.samples[first]) for row in rows]
        figures.digit_grid(path, pictures)

    def _fitted_classifier(self) -> Any:
        if self._classifier is None:
            self._classifier = evaluation.fit_digit_classifier(self._pixels, self.labels)
        return self._classifier
