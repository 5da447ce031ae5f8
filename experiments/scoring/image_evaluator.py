"""The evaluator of networks that generate images."""

import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from experiments.common import cluster
from experiments.common.solver_choices import paper_substeps
from experiments.scoring.cells import SEED_RULE, Cell
from experiments.scoring.measure import Measurement
from gmflow_jax import evaluation, models, pipeline
from gmflow_jax.pipeline._usual import usual_options


class ImageEvaluator:
    """Draws images with a pipeline and scores them by Inception features.

    The processes of a run draw the images together.

    Args:
      pipe: pipeline of the network, with an autoencoder.
      load_measurement: returns the measurement. It is called once, when the measurement is first used,
        because loading may take long.
      num_samples: number of images of each cell, drawn by all processes together.
      labels: a rule of `evaluation.evaluation_labels`.
      seed: seed of all images.
      batch_size: images drawn at a time; None is the pipeline's default.

    Raises:
      ValueError: if there are fewer samples than processes, or the labels cannot be made.
    """

    distance = "fid"  # the score that the best cells of a sweep minimise

    def __init__(
        self,
        pipe: pipeline.Pipeline,
        load_measurement: Callable[[], Measurement],
        num_samples: int,
        labels: str = "random",
        seed: int = 0,
        batch_size: int | None = None,
    ):
        if num_samples < jax.process_count():
            raise ValueError(
                f"{num_samples} samples cannot be split over {jax.process_count()} processes; draw more."
            )
        self._labels = evaluation.evaluation_labels(num_samples, pipe.bundle.config.num_classes, labels)
        self._pipe, self._load_measurement, self._label_rule = pipe, load_measurement, labels
        self._options = {"seed": seed, "batch_size": batch_size, "progress": False}

    @functools.cached_property
    def measurement(self) -> Measurement:
        """Inception, the reference and the metrics."""
        return self._load_measurement()

    @property
    def num_samples(self) -> int:
        """Number of images of each cell, drawn by all processes together."""
        return len(self._labels)

    @property
    def real_saturation(self) -> float | None:
        """Mean saturation of the reference images; None if it is not known."""
        return (self.measurement.reference.colors or {}).get("saturation")

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Everything apart from the cell that determines the scores."""
        bundle = self._pipe.bundle
        networks = {name: models.functional(network)[1] for name, network in bundle.networks.items()}
        return {
            "weights_sha256": {name: models.fingerprint(params) for name, params in networks.items()},
            "dtype": {"parameters": bundle.config.param_dtype, "network": bundle.config.dtype},
            "shift": bundle.shift,
            "integrator": "euler",
            "num_samples": self.num_samples,
            "labels": self._label_rule,
            "seeds": [self._options["seed"]],
            "seed_rule": SEED_RULE,
            **self.measurement.settings,
        }

    def resolve(self, cell: Cell) -> Cell:
        """Return the cell with defaults for its open choices.

        Raises:
          ValueError: if the pipeline cannot draw the cell.
        """
        learned = cell.solver == "gm_sde" and self._pipe.bundle.spectrum is not None
        order, num_substeps = 2, paper_substeps(cell.num_steps, imagenet=True)
        if self._pipe.bundle.num_calls is not None:
            usual = usual_options(self._pipe.bundle.num_calls, cell.num_steps)
            order, num_substeps = usual.order, usual.num_substeps
        cell = cell.with_defaults(order=order, num_substeps=num_substeps, spectrum=learned)
        self._draw(cell, self._labels[:1], np.zeros(1, np.uint32))
        return cell

    def score(self, cell: Cell, update: Callable[[int], Any]) -> dict[str, float]:
        """Draw and score a cell.

        Args:
          cell: a cell that `resolve` returned.
          update: called with the number of images that this process has just drawn.

        Returns:
          The scores in process 0, and an empty dict in the others.
        """
        indices = np.array_split(np.arange(self.num_samples), jax.process_count())[jax.process_index()]

        def batches():
            for images in self._draw(cell, self._labels[indices], indices):
                yield images
                update(len(images))

        with cluster.fail_together():  # if one process cannot draw, the others stop too
            features = self.measurement.features(batches())
        parts = cluster.gather(features)
        with cluster.fail_together():
            if jax.process_index() > 0:
                return {}
            return self.measurement.scores(functools.reduce(evaluation.ImageFeatures.merge, parts))

    def _draw(self, cell: Cell, labels: np.ndarray, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Return an iterator of batches of images; it checks its arguments at once and compiles later."""
        choices = {name: value for name, value in cell.to_json().items() if name != "name"}
        return self._pipe.batches(labels, indices=indices, **choices, **self._options)
