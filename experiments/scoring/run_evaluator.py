"""The evaluator of runs on digits and on points."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from experiments.common import solver_choices
from experiments.runs import trained
from experiments.scoring.cells import SEED_RULE, Cell, check_report
from gmflow_jax import evaluation, flow, solvers
from gmflow_jax.guidance import METHODS
from gmflow_jax.pipeline._usual import warn_of_steps


class RunEvaluator:
    """Draws and scores samples of a run on digits or on points.

    Args:
      workdir: folder of the run.
      run: the run.
      num_seeds: number of seeds; None takes that of the run's configuration.
    """

    distance = "frechet"  # the score that the best cells of a sweep minimise
    real_saturation = None  # the digits are grey

    def __init__(self, workdir: str, run: trained.TrainedRun, num_seeds: int | None = None):
        check_report(run.config)
        self.workdir, self._run = workdir, run
        # Settings were tuned on other seeds.
        self.seeds = list(range(num_seeds or run.config.report.num_seeds))
        self._shift = run.config.report.shift if run.num_calls is None else run.shift
        self._labels = run.task.evaluation_labels
        self._compiled = functools.lru_cache(maxsize=1)(self._compile)

    @property
    def num_calls(self) -> int | None:
        """Number of network calls that the run was distilled for; None for other runs."""
        return self._run.num_calls

    @property
    def num_samples(self) -> int:
        """Number of samples of each cell, over all seeds."""
        return len(self.seeds) * len(self._labels)

    @functools.cached_property
    def settings(self) -> dict[str, Any]:
        """Everything apart from the cell that determines the scores."""
        (run,) = trained.describe_runs([self.workdir], [self._run])
        del run["workdir"]  # the path has no influence on the scores
        return {
            "run": run,
            "integrator": self._run.integrator,
            "num_samples": len(self._labels),
            "labels": "those of the training data",
            "seeds": self.seeds,
            "seed_rule": SEED_RULE,
        }

    def resolve(self, cell: Cell) -> Cell:
        """Return the cell with defaults for its open choices.

        Raises:
          ValueError: if the run cannot draw the cell.
        """
        cell = cell.with_defaults(**self._run.usual_options(cell.num_steps), spectrum=False)
        warn_of_steps(self._run.num_calls, cell.num_steps)
        self._solver(cell)
        return cell

    def compile(self, cell: Cell) -> Callable[[int], np.ndarray]:
        """Compile the sampler of a cell; return draw(seed) -> samples.

        The last sampler is used again for cells that differ only in the guidance scale.
        """
        unscaled = dataclasses.replace(cell, guidance_scale=METHODS[cell.guidance])
        sampler = self._compiled(unscaled, cell.guided)
        return lambda seed: sampler(jax.random.key(seed), self._labels, cell.guidance_scale)

    def rounds(self, draw: Callable[[int], np.ndarray]) -> Iterator[tuple[np.ndarray, Any]]:
        """Yield the samples and the scores of each seed; `draw` is what `compile` returned."""
        for samples in map(draw, self.seeds):
            yield samples, self._run.task.score(samples, self._labels)

    def score(self, cell: Cell, update: Callable[[int], Any]) -> dict[str, float]:
        """Draw and score a cell.

        Args:
          cell: a cell that `resolve` returned.
          update: called with the number of samples that have just been drawn.

        Returns:
          The means of the scores over seeds.
        """
        scores = []
        for samples, score in self.rounds(self.compile(cell)):
            scores.append(score)
            update(len(samples))
        return {name: value[0] for name, value in evaluation.mean_and_std(scores).items() if value}

    def _solver(self, cell: Cell) -> solvers.Solver:
        spectrum = self._run.spectrum(cell.solver, wanted=bool(cell.spectrum))
        return solver_choices.make_solver(
            cell.solver, cell.num_steps, cell.order, cell.num_substeps, self._shift, spectrum,
            self._run.integrator,
        )

    def _compile(self, cell: Cell, guided: bool) -> Callable:
        times = flow.time_grid(cell.num_steps, self._shift)
        options = {"method": cell.guidance, "orthogonal": cell.orthogonal} if guided else {}
        return self._run.sampler(self._solver(cell), times, len(self._labels), guided, **options)
