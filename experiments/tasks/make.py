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
        if not isinstance(network, models.GMDiTConfig):
            raise ValueError(
                f"The task {config.task} needs a network of images, but network.kind is "
                f"{config.network.kind!r}; give 'gm_dit'."
            )
        task = _UNSCORED[config.task](config, network)
    elif config.task in SCORED:
        task = make_scored_task(config.task, held_out_of(config))
    else:
        names = ", ".join((*SCORED, *_UNSCORED))
        raise ValueError(f"There is no task {config.task!r}. Choose one of {names}.")
    _check_classes(task, config.task, network)
    return task


def held_out_of(config: ml_collections.ConfigDict) -> int:
    """Return the number of digits that a run is not trained on, see `DigitsTask`; 0 for other tasks."""
    return config.get("data", {}).get("held_out", 0)


def _check_classes(task: Task, name: str, network: models.GMDiTConfig | models.GMMLPConfig) -> None:
    """Raise ValueError if the task has classes that the network does not have."""
    needed, found = len(task.class_names), getattr(network, "num_classes", 0)
    if needed > found:
        raise ValueError(
            f"The {name} have {needed} classes, but the network has {found}, so that it cannot represent all "
            f"labels; give --config.network.num_classes={needed}, for a network of kind gm_dit."
        )


def make_scored_task(name: str, held_out: int = 0) -> DigitsTask | CheckerboardTask:
    """Make a task with scores, digits or checkerboard, by its name; raise ValueError if there is none.

    `held_out` is for digits, see `DigitsTask`.
    """
    if name not in SCORED:
        raise ValueError(f"There is no task {name!r} with scores. Choose one of {', '.join(SCORED)}.")
    return DigitsTask(held_out) if name == "digits" else SCORED[name]()
