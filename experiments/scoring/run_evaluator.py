"""The evaluator of runs on digits and points."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from experiments.common import solver_choices
from experiments.runs import trained
from experiments.scoring.cells import SEED_RULE, Cell
from gmflow_jax import evaluation, flow, solvers
from gmflow_jax.guidance import METHODS


class RunEvaluator:
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

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """What decides the scores beside the cell."""
        (run,) = trained.describe_runs([self._workdir], [self._run])
        del run["workdir"]  # where it lies does not
        return {
            "run": run,
            "integrator": "midpoint",
            "num_samples": len(self._labels),
            "labels": "those of the training data",
            "seeds": self.seeds,
            "seed_rule": SEED_RULE,
        }

    def resolve(self, cell: Cell) -> Cell:
        """The cell with all choices made; ValueError if it cannot be drawn."""
        self._solver(cell)
        num_substeps = solver_choices.default_substeps(cell.num_steps)
        return cell.with_defaults(num_substeps=num_substeps, spectrum=False)

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
        return {name: value[0] for name, value in evaluation.mean_and_std(scores).items() if value}

    def _solver(self, cell: Cell) -> solvers.Solver:
        spectrum = self._run.spectrum(cell.solver, wanted=bool(cell.spectrum))
        shift = self._run.config.report.shift
        return solver_choices.make_solver(
            cell.solver, cell.num_steps, cell.order, cell.num_substeps, shift, spectrum
        )

    def _compile(self, cell: Cell, guided: bool) -> Callable:
        times = flow.time_grid(cell.num_steps, self._run.config.report.shift)
        options = {"method": cell.guidance, "orthogonal": cell.orthogonal} if guided else {}
        return self._run.sampler(self._solver(cell), times, len(self._labels), guided, **options)
