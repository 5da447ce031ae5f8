"""Tasks by their names in configurations."""

import ml_collections

from experiments.tasks.checkerboard import CheckerboardTask
from experiments.tasks.digits import DigitsTask
from experiments.tasks.fake import FakeTask
from experiments.tasks.latents import LatentTask
from gmflow_jax import models

SCORED = {"digits": DigitsTask, "checkerboard": CheckerboardTask}
_UNSCORED = {"latents": LatentTask, "fake": FakeTask}
Task = DigitsTask | CheckerboardTask | LatentTask | FakeTask


def make_task(
    config: ml_collections.ConfigDict, network: models.GMDiTConfig | models.GMMLPConfig
) -> Task:
    """Make the task that a configuration trains on.

    `network` is the configuration of the run's network, which latents have to fit. Raises ValueError if
    there is no such task or its data cannot be used.
    """
    if config.task in _UNSCORED:
        return _UNSCORED[config.task](config, network)
    if config.task not in SCORED:
        names = ", ".join((*SCORED, *_UNSCORED))
        raise ValueError(f"There is no task {config.task!r}. Choose one of {names}.")
    return make_scored_task(config.task)


def make_scored_task(name: str) -> DigitsTask | CheckerboardTask:
    """Make a task with scores, digits or checkerboard, by its name; raise ValueError if there is none."""
    if name not in SCORED:
        raise ValueError(f"There is no task {name!r} with scores. Choose one of {', '.join(SCORED)}.")
    return SCORED[name]()
