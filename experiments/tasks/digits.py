"""What a run trains on and is judged by: the digits, the checkerboard, and latents (latents.py).

A task knows the shape of a sample, gives batches for training and for the evaluation hook, and draws the
picture of a few samples. The first two also score samples against the real thing, and draw their report.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from experiments import figures
from experiments.latents import FakeTask, LatentTask
from gmflow_jax import data, evaluation, models

BLOCK = 2  # the digits' mixture pixels hold 2 x 2 real ones, so that D = 4


@dataclasses.dataclass(frozen=True)
class Row:
    """Samples and scores of one solver at one number of network calls, over several seeds."""

    solver: str
    nfe: int
    samples: np.ndarray  # of the first seed
    scores: dict[str, tuple[float, float] | None]  # mean and standard deviation over seeds


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
            ("real halves, n = 898", evaluation.seed_spread(halves)),
            ("one Gaussian per class", evaluation.seed_spread(gaussians)),
        ]

    def draw(self, path, rows: Sequence[Row]) -> None:
        first = [int(np.flatnonzero(self.labels == c)[0]) for c in range(len(self.class_names))]
        pictures = [("real", self._pixels[first])]
        pictures += [((row.solver, str(row.nfe)), row.samples[first]) for row in rows]
        figures.digit_grid(path, pictures)

    def _fitted_classifier(self) -> Any:
        if self._classifier is None:
            self._classifier = evaluation.fit_digit_classifier(self._pixels, self.labels)
        return self._classifier


class CheckerboardTask:
    """Points uniform on the white squares of a 4 x 4 board, in [-4, 4]^2."""

    sample_shape = (2,)
    is_image = False
    metadata = None
    sample_batch_size = 10_000
    score_names = ("inside", "total_variation")
    class_names = ()
    num_evaluation_samples = 30_000  # exact samples score a total variation of 0.026

    def batches(self, batch_size: int, seed: int) -> data.CheckerboardBatches:
        return data.CheckerboardBatches(batch_size, seed)

    def evaluation_batches(self, batch_size: int, seed: int) -> data.CheckerboardBatches:
        return self.batches(batch_size, seed + 1)

    def picture(self, path, x) -> None:
        figures.histogram_grid(path, ["samples"], [""], [[np.asarray(x)]], [[None]])

    @property
    def training_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Points [10_000, 2] of the endless training data, and placeholders for labels."""
        points = np.asarray(data.checkerboard(jax.random.key(0), self.sample_batch_size))
        return points, np.zeros(len(points), np.int32)

    def decode(self, x) -> np.ndarray:
        return np.asarray(x)

    @property
    def evaluation_labels(self) -> np.ndarray:
        """Placeholders: the points have no class."""
        return self.labels_of_samples(self.num_evaluation_samples)

    def labels_of_samples(self, num_samples: int) -> np.ndarray:
        return np.zeros(num_samples, np.int32)

    def score(self, samples: np.ndarray, labels: np.ndarray) -> evaluation.CheckerboardScores:
        del labels
        return evaluation.checkerboard_scores(samples)

    def reference_rows(self) -> list[tuple[str, dict]]:
        floor = evaluation.checkerboard_floor(self.num_evaluation_samples)
        return [("exact samples", {"inside": (1.0, 0.0), "total_variation": floor})]

    def draw(self, path, rows: Sequence[Row]) -> None:
        solvers = list(dict.fromkeys(row.solver for row in rows))
        nfes = sorted({row.nfe for row in rows})
        table = {(row.solver, row.nfe): row for row in rows}
        found = [[table.get((solver, nfe)) for nfe in nfes] for solver in solvers]
        figures.histogram_grid(
            path,
            solvers,
            nfes,
            [[row and row.samples for row in line] for line in found],
            [[row and tuple(row.scores[n][0] for n in self.score_names) for row in line] for line in found],
        )


SCORED = {"digits": DigitsTask, "checkerboard": CheckerboardTask}
_UNSCORED = {"latents": LatentTask, "fake": FakeTask}


def make_task(config: ml_collections.ConfigDict) -> DigitsTask | CheckerboardTask | LatentTask | FakeTask:
    """What a configuration trains on; ValueError if it cannot."""
    if config.task in _UNSCORED:
        return _UNSCORED[config.task](config)
    if config.task not in SCORED:
        names = ", ".join((*SCORED, *_UNSCORED))
        raise ValueError(f"There is no task {config.task!r}. Choose one of {names}.")
    return make_scored_task(config.task)


def make_scored_task(name: str) -> DigitsTask | CheckerboardTask:
    """A task that scores samples against real data; ValueError if there is none of that name."""
    if name not in SCORED:
        raise ValueError(f"There is no task {name!r} with scores. Choose one of {', '.join(SCORED)}.")
    return SCORED[name]()
