"""Checks before a run writes to its folder, so that a refused command leaves nothing behind."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.runs import folder
from experiments.scoring.cells import check_report
from gmflow_jax import sharding
from gmflow_jax._arguments import check_labels, check_number
from gmflow_jax._files import check_writable, is_address, to_path
from gmflow_jax.guidance import check_guidance_scale
from gmflow_jax.training._orbax import snapshot_folder

# Fields of the metadata of latents that determine the training data.
_DATA_FIELDS = (
    "autoencoder", "broken", "class_folders", "exif_orientation", "format", "image_size", "num_images",
    "scaling_factor", "source",
)  # fmt: skip


def check_microbatches(config, parallelism: sharding.Parallelism) -> None:
    """Raise ValueError if the batch cannot be cut into microbatches on the devices."""
    unit = config.num_microbatches * parallelism.mesh.size
    if config.num_microbatches < 1 or config.batch_size % unit:
        raise ValueError(
            f"A batch of {config.batch_size} cannot be cut into {config.num_microbatches} microbatches on "
            f"{parallelism.mesh.size} devices; give a batch_size that is a multiple of their product."
        )


def check_numbers(config) -> None:
    """Raise ValueError if a number in the configuration is out of its range."""
    minima = {
        "num_steps": 1, "batch_size": 1, "log_every": 1, "checkpoint_every": 1, "keep_last": 1,
        "keep_every": 0, "sample_every": 0, "eval_every": 0, "eval_batches": 1, "score_every": 0,
        "score_samples": 10, "max_skipped_in_row": 0, "seed": 0,
        "post_hoc_ema.every": 0, "data.num_threads": 0, "data.num_workers": 0,
    }  # fmt: skip
    for name, minimum in minima.items():
        value = functools.reduce(lambda part, key: part[key], name.split("."), config)
        if value < minimum:
            raise ValueError(f"{name} is {value}, but must be at least {minimum}.")
    for name, largest in (("seed", 2**32 - 1), ("num_steps", 2**31 - 1)):
        if config[name] > largest:
            raise ValueError(f"{name} is {config[name]}, but must be at most {largest}.")
    # Those of the optimiser, the average and the loss are checked where they are used, before the folder is
    # made; the report is drawn only after the training.
    if "report" in config:
        check_report(config)


def check_distillation(config) -> None:
    """Raise ValueError if an option of a distilled run has a wrong type or is out of its range."""
    c = config.distillation
    numbers = {
        "num_calls": (config.num_calls, int, "[1, 1000]"),
        "distillation.num_substeps": (c.num_substeps, int, "[1, 10000]"),
        "distillation.dropout": (c.dropout, float, "[0, 1)"),
        "distillation.shift": (c.shift, float, "(0, inf)"),
        "distillation.guidance_scale": (c.guidance_scale, float, "[0, inf)"),
    }
    for name, (value, kind, interval) in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, kind)):
            raise ValueError(f"{name} is {value!r}, but must be a {'whole ' * (kind is int)}number.")
        check_number(name, value, interval)
    choices = {"init": ("teacher", "scratch"), "kind": ("sit", "dit"), "data_free": (False, True)}
    for name, known in choices.items():
        if c[name] not in known:
            raise ValueError(
                f"distillation.{name} is {c[name]!r}, but must be {known[0]!r} or {known[1]!r}."
            )
    check_guidance_scale(c.guidance_scale, c.guidance)
    try:
        low, high = c.interval
        valid = 0 <= low <= high <= 1
    except (TypeError, ValueError):
        valid = False
    if not valid:
        raise ValueError(
            f"distillation.interval is {c.interval!r}, but must be two times (low, high) with 0 <= low <= "
            "high <= 1, between which the teacher is guided."
        )


def check_teacher_folder(config, workdir: pathlib.Path) -> None:
    """Raise ValueError if a run would be written into the folder of its teacher."""
    if config.get("teacher") and str(to_path(config.teacher).resolve()) == str(workdir.resolve()):
        raise ValueError(
            f"--workdir and --config.teacher are both {workdir}, but a run cannot be its own teacher; give a "
            "new folder as --workdir."
        )


def check_batch(batch: Mapping[str, np.ndarray], config) -> None:
    """Raise ValueError if a label of a batch is no class of the network."""
    if "labels" in batch:
        check_labels(batch["labels"], config.network.get("num_classes", 0))


def check_address(workdir: pathlib.Path) -> None:
    """Raise an error if the workdir is an address below which no run can be written."""
    snapshot_folder(workdir)
    if is_address(workdir) and workdir.is_file():
        raise ValueError(f"{workdir} is a file, but a run needs a folder; give another --workdir.")
    check_writable(workdir / "config.json")


def check_folder(workdir: pathlib.Path, notes: Mapping[str, Any]) -> None:
    """Raise ValueError if the folder holds another run, or latents other than those of `notes`."""
    folder.check_unchanged(workdir / "config.json", notes["config"], "configuration")
    if notes["latents"] is not None:
        data_fields = {name: notes["latents"][name] for name in _DATA_FIELDS}
        folder.check_unchanged(workdir / "latents.json", data_fields, "cache of latents")
    if notes.get("teacher") is not None:
        folder.check_unchanged(workdir / "teacher.json", notes["teacher"], "teacher")


def folder_files(notes: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the names and contents of the files that describe a run in its folder."""
    names = {"config": "config.json", "latents": "latents.json", "teacher": "teacher.json"}
    return [(names[key], content) for key, content in notes.items() if content is not None]
