"""Points on a checkerboard: training data, scores and pictures."""

from collections.abc import Sequence

import jax
import numpy as np

from experiments.common import figures
from experiments.tasks.rows import ReportRow
from gmflow_jax import data, evaluation


class CheckerboardTask:
    """Points uniform on the white squares of a 4 x 4 board, in [-4, 4]^2."""

    sample_shape = (2,)
    is_image = False
    metadata = None
    sample_batch_size = 10_000
    score_names = ("inside", "total_variation")
    class_names = ()
    num_evaluation_samples = 30_000  # exact samples then have a total variation of 0.025

    def batches(self, batch_size: int, seed: int) -> data.CheckerboardBatches:
        """Return batch_fn(step, rows=None), which gives the training batch of a step."""
        return data.CheckerboardBatches(batch_size, seed)

    def evaluation_batches(self, batch_size: int, seed: int) -> data.CheckerboardBatches:
        """Return a batch_fn whose batches differ from the training batches of the same seed."""
        return self.batches(batch_size, seed + 1)

    def picture(self, path, x) -> None:
        """Draw the histogram of points x [N, 2]."""
        figures.histogram_grid(path, ["samples"], [""], [[np.asarray(x)]], [[None]])

    @property
    def training_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Points [10_000, 2] drawn as in training, and zeros as labels."""
        points = np.asarray(data.checkerboard(jax.random.key(0), self.sample_batch_size))
        return points, np.zeros(len(points), np.int32)

    def decode(self, x) -> np.ndarray:
        """Return the points as they are."""
        return np.asarray(x)

    @property
    def evaluation_labels(self) -> np.ndarray:
        """Zeros, because the points have no classes."""
        return self.labels_of_samples(self.num_evaluation_samples)

    def labels_of_samples(self, num_samples: int) -> np.ndarray:
        """Return zeros, because the points have no classes."""
        return np.zeros(num_samples, np.int32)

    def score(self, samples: np.ndarray, labels: np.ndarray) -> evaluation.CheckerboardScores:
        """Score points [N, 2]; the labels are ignored."""
        del labels
        return evaluation.checkerboard_scores(samples)

    def reference_rows(self) -> list[tuple[str, dict]]:
        """Return the scores of exact samples, for comparison in reports."""
        floor = evaluation.checkerboard_floor(self.num_evaluation_samples)
        return [("exact samples", {"inside": (1.0, 0.0), "total_variation": floor})]

    def draw(self, path, rows: Sequence[ReportRow]) -> None:
        """Draw the picture of a report: histograms with a row for each solver, a column for each NFE."""
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
