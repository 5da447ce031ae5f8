"""The evaluator of networks that draw pictures."""

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


class ImageEvaluator:
    """Scores the pictures of a pipeline by Inception's features; the processes of a run share the drawing."""

    distance = "fid"

    def __init__(
        self,
        pipe: pipeline.Pipeline,
        load_measurement: Callable[[], Measurement],
        num_samples: int,
        labels: str = "random",
        seed: int = 0,
        batch_size: int | None = None,
    ):
        """`labels` is a rule of `evaluation.evaluation_labels`. ValueError if something cannot be used.

        The measurement is loaded when it is first asked for, which may take long.
        """
        if num_samples < jax.process_count():
            raise ValueError(f"{num_samples} samples cannot be shared by {jax.process_count()} processes.")
        self._labels = evaluation.evaluation_labels(num_samples, pipe.bundle.config.num_classes, labels)
        self._pipe, self._load_measurement, self._rule = pipe, load_measurement, labels
        self._options = {"seed": seed, "batch_size": batch_size, "progress": False}

    @functools.cached_property
    def measurement(self) -> Measurement:
        return self._load_measurement()

    @property
    def num_samples(self) -> int:
        """Drawn for each cell, by all processes together."""
        return len(self._labels)

    @property
    def real_saturation(self) -> float | None:
        """Of the reference's images, where they are known."""
        return (self.measurement.reference.colors or {}).get("saturation")

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the scores beside the cell."""
        bundle = self._pipe.bundle
        networks = {name: models.functional(network)[1] for name, network in bundle.networks.items()}
        return {
            "weights_sha256": {name: models.fingerprint(params) for name, params in networks.items()},
            "dtype": {"parameters": bundle.config.param_dtype, "network": bundle.config.dtype},
            "shift": bundle.shift,
            "integrator": "euler",
            "num_samples": self.num_samples,
            "labels": self._rule,
            "seeds": [self._options["seed"]],
            "seed_rule": SEED_RULE,
            **self.measurement.settings,
        }

    def resolve(self, cell: Cell) -> Cell:
        """The cell with all choices made; ValueError if it cannot be drawn."""
        learned = cell.solver == "gm_sde" and self._pipe.bundle.spectrum is not None
        num_substeps = paper_substeps(cell.num_steps, imagenet=True)
        cell = cell.with_defaults(num_substeps=num_substeps, spectrum=learned)
        self._draw(cell, self._labels[:1], np.zeros(1, np.uint32))
        return cell

    def score(self, cell: Cell, advance: Callable[[int], Any]) -> dict[str, float]:
        """Scores of the cell, in process 0; `advance` is told how many pictures this one has drawn."""
        mine = np.array_split(np.arange(self.num_samples), jax.process_count())[jax.process_index()]

        def batches():
            for images in self._draw(cell, self._labels[mine], mine):
                yield images
                advance(len(images))

        with cluster.fail_together():  # if one cannot draw, the others do not wait for it
            features = self.measurement.features(batches())
        parts = cluster.gather(features)
        with cluster.fail_together():
            if jax.process_index() > 0:
                return {}
            return self.measurement.scores(functools.reduce(evaluation.ImageFeatures.merge, parts))

    def _draw(self, cell: Cell, labels: np.ndarray, indices: np.ndarray) -> Iterator[np.ndarray]:
        """Batches of pictures; nothing is compiled before the first is asked for."""
        drawing = {name: value for name, value in cell.to_json().items() if name != "name"}
        return self._pipe.batches(labels, indices=indices, **drawing, **self._options)
