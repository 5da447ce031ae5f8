"""What is looked at before a run touches its folder, so that a corrected command finds nothing in its way."""

import functools
import pathlib
from collections.abc import Mapping
from typing import Any

from experiments.runs import folder
from gmflow_jax import sharding

# Of a folder of latents: what decides the numbers that are trained on.
_DECISIVE = (
    "autoencoder", "broken", "class_folders", "format", "image_size", "num_images", "scaling_factor",
    "source",
)  # fmt: skip


def check_microbatches(config, parallelism: sharding.Parallelism) -> None:
    """ValueError if the batch cannot be cut."""
    unit = config.num_microbatches * parallelism.mesh.size
    if config.num_microbatches < 1 or config.batch_size % unit:
        raise ValueError(
            f"A batch of {config.batch_size} cannot be cut into {config.num_microbatches} microbatches on "
            f"{parallelism.mesh.size} devices; give a batch_size that is a multiple of their product."
        )


def check_numbers(config) -> None:
    """ValueError if a count is too small."""
    least = {
        "num_steps": 1, "batch_size": 1, "log_every": 1, "checkpoint_every": 1, "keep_last": 1,
        "keep_every": 0, "sample_every": 0, "eval_every": 0, "score_every": 0, "score_samples": 10,
        "max_skipped_in_row": 0, "seed": 0,
        "post_hoc_ema.every": 0, "data.num_threads": 0, "data.num_workers": 0,
    }  # fmt: skip
    for name, minimum in least.items():
        value = functools.reduce(lambda part, key: part[key], name.split("."), config)
        if value < minimum:
            raise ValueError(f"{name} is {value}, but must be at least {minimum}.")


def check_folder(workdir: pathlib.Path, notes: Mapping[str, Any]) -> None:
    """ValueError if a folder is that of another run."""
    if ":/" in str(workdir):  # pathlib makes one slash of two
        raise ValueError(
            f"--workdir is {workdir}, but must be a folder of the file system; mount a disk that all share."
        )
    folder.check_unchanged(workdir / "config.json", notes["config"], "configuration")
    if notes["latents"] is not None:
        decisive = {name: notes["latents"][name] for name in _DECISIVE}
        folder.check_unchanged(workdir / "latents.json", decisive, "cache of latents")


def files(notes: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """What a run's folder says of it, by file."""
    files = {"config": "config.json", "latents": "latents.json"}
    return [(files[name], content) for name, content in notes.items() if content is not None]
