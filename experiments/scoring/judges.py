"""Judges of cells: each draws samples and scores them."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from experiments import cluster, provenance, trained
from experiments.scoring.cells import Cell
from gmflow_jax import evaluation, flow, models, pipeline, solvers
from gmflow_jax.guidance import METHODS

SEED_RULE = "sample i of seed s: fold_in(key(s), i)"


class RunJudge:
    """Scores a run on digits or points by its task, with as many seeds as its configuration says."""

    distance = "frechet"
    real_saturation = None  # the digits are grey

    def __init__(self, workdir: str, run: trained.TrainedRun):
        self._workdir, self._run = workdir, run
        self.seeds = list(range(run.config.report.num_seeds))  # choices were made on other ones
        self._labels = run.task.evaluation_labels
        self._compiled = functools.lru_cache(maxsize=1)(self._compile)

    @property
    def num_samples(self) -> int:
        """Drawn for each cell."""
        return len(self.seeds) * len(self._labels)

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the scores beside the cell."""
        return {
            "runs": provenance.of_runs([self._workdir], [self._run]),
            "num_samples": len(self._labels),
            "labels": "those of the training data",
            "seeds": self.seeds,
            "seed_rule": SEED_RULE,
        }

    def resolve(self, cell: Cell) -> Cell:
        """The cell with all choices made; ValueError if it cannot be drawn."""
        self._solver(cell)
        return cell.with_defaults(num_substeps=trained.default_substeps(cell.num_steps), spectrum=False)

    def compile(self, cell: Cell) -> Callable[[int], np.ndarray]:
        """draw(seed) -> samples of the cell. Another guidance scale needs no new compilation."""
        unscaled = dataclasses.replace(cell, guidance_scale=METHODS[cell.guidance])
        sampler = self._compiled(unscaled, cell.guided)
        return lambda seed: sampler(jax.random.key(seed), self._labels, cell.guidance_scale)

    def rounds(self, draw: Callable[[int], np.ndarray]) -> Iterator[tuple[np.ndarray, Any]]:
        """Samples and scores for each seed."""
        for samples in map(draw, self.seeds):
            yield samples, self._run.task.score(samples, self._labels)

    def score(self, cell: Cell, advance: Callable[[int], Any]) -> dict[str, float]:
        """Means of the cell's scores; `advance` is told how many samples have been drawn."""
        scores = []
        for samples, score in self.rounds(self.compile(cell)):
            scores.append(score)
            advance(len(samples))
        return {name: value[0] for name, value in evaluation.seed_spread(scores).items() if value}

    def _solver(self, cell: Cell) -> solvers.Solver:
        spectrum = self._run.spectrum(cell.solver, wanted=bool(cell.spectrum))
        shift = self._run.config.report.shift
        return trained.make_solver(
            cell.solver, cell.num_steps, cell.order, cell.num_substeps, shift, spectrum
        )

    def _compile(self, cell: Cell, guided: bool) -> Callable:
        times = flow.time_grid(cell.num_steps, self._run.config.report.shift)
        options = {"method": cell.guidance, "orthogonal": cell.orthogonal} if guided else {}
        return self._run.sampler(self._solver(cell), times, len(self._labels), guided, **options)


class ImageJudge:
    """Scores the pictures of a pipeline by Inception's features; the processes of a run share the drawing."""

    distance = "fid"

    def __init__(
        self,
        pipe: pipeline.Pipeline,
        extractor: evaluation.FeatureExtractor,
        reference: evaluation.Reference,
        *,
        num_samples: int,
        labels: str = "random",
        seed: int = 0,
        batch_size: int | None = None,
        metrics: tuple[str, ...] | None = None,
        neighbours: str = "float32",
    ):
        """Args: see `evaluation.evaluation_labels` and `image_scores`. ValueError if they cannot be used."""
        names = evaluation.available_metrics(reference) if metrics is None else metrics
        evaluation.check_metrics(names, num_samples, reference)
        if num_samples < jax.process_count():
            raise ValueError(f"{num_samples} samples cannot be shared by {jax.process_count()} processes.")
        self._labels = evaluation.evaluation_labels(num_samples, pipe.bundle.config.num_classes, labels)
        self._pipe, self._extractor, self._reference = pipe, extractor, reference
        self._options = {"seed": seed, "batch_size": batch_size}
        self._rule, self._metrics, self._neighbours = labels, names, neighbours

    @property
    def num_samples(self) -> int:
        """Drawn for each cell, by all processes together."""
        return len(self._labels)

    @property
    def real_saturation(self) -> float | None:
        """Of the reference's images, where they are known."""
        return (self._reference.colours or {}).get("saturation")

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the scores beside the cell."""
        bundle = self._pipe.bundle
        networks = {name: models.functional(network)[1] for name, network in bundle.networks.items()}
        return {
            "weights_sha256": {name: models.fingerprint(params) for name, params in networks.items()},
            "dtype": {"parameters": bundle.config.param_dtype, "network": bundle.config.dtype},
            "shift": bundle.shift,
            "num_samples": self.num_samples,
            "labels": self._rule,
            "seeds": [self._options["seed"]],
            "seed_rule": SEED_RULE,
            **measurement(self._extractor, self._reference, self._neighbours),
        }

    def resolve(self, cell: Cell) -> Cell:
        """The cell with all choices made; ValueError if it cannot be drawn."""
        learned = cell.solver == "gm_sde" and self._pipe.bundle.spectrum is not None
        cell = cell.with_defaults(num_substeps=paper_substeps(cell.num_steps), spectrum=learned)
        self._draw(cell, self._labels[:1], np.zeros(1, np.uint32))
        return cell

    def score(self, cell: Cell, advance: Callable[[int], Any]) -> dict[str, float]:
        """Scores of the cell, in process 0; `advance` is told how many pictures this one has drawn."""
        mine = np.array_split(np.arange(self.num_samples), jax.process_count())[jax.process_index()]

        def batches():
            for images in self._draw(cell, self._labels[mine], mine):
                yield images
                advance(len(images))

        with cluster.alike():  # if one cannot draw, the others do not wait for it
            features = evaluation.image_features(self._extractor, batches())
        parts = cluster.gather(features)
        with cluster.alike():
            if jax.process_index() > 0:
                return {}
            features = functools.reduce(evaluation.ImageFeatures.merge, parts)
            return evaluation.image_scores(
                features, self._reference, self._metrics, self._neighbours, bar_of_blocks
            )

    def _draw(self, cell: Cell, labels: np.ndarray, indices: np.ndarray) -> Iterable[np.ndarray]:
        """Batches of pictures; nothing is compiled before the first is asked for."""
        return self._pipe.batches(
            labels,
            indices=indices,
            num_steps=cell.num_steps,
            solver=cell.solver,
            order=cell.order,
            num_substeps=cell.num_substeps,
            guidance_scale=cell.guidance_scale,
            guidance=cell.guidance,
            orthogonal=cell.orthogonal,
            spectrum=cell.spectrum,
            progress=False,
            **self._options,
        )


def measurement(
    extractor: evaluation.FeatureExtractor, reference: evaluation.Reference, neighbours: str
) -> dict[str, Any]:
    """How pictures are measured, for a report."""
    return {
        "reference": reference.source,
        "inception": {
            "sha256": extractor.fingerprint,
            "input": "uint8, resized to 299 x 299 as by TensorFlow 1 (bilinear, no half pixels, no "
            "antialiasing), (x - 128) / 128",
            "dtype": "float32, matrix products of the highest precision",
        },
        "metrics": {
            "fid, sfid": "Frechet distance in float64, covariances with divisor N - 1",
            "inception_score": "mean of 10 parts, logits without the bias",
            "precision, recall": f"k = 3, distances in {neighbours}",
            "density, coverage": f"k = 5, distances in {neighbours}",
            "kid": "unbiased, cubic kernel, all pictures",
        },
    }


def paper_substeps(num_steps: int) -> int:
    """The paper's sub-steps of GM-ODE on ImageNet, appendix A.1."""
    return 8 if num_steps in (4, 6) else max(128 // num_steps, 2)


def bar_of_blocks(blocks: Iterable) -> Iterable:
    """A bar for what takes more than a moment."""
    return tqdm(blocks, desc="neighbours", unit="block", leave=False, delay=2)
