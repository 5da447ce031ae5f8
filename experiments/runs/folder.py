"""The configuration in the folder of a run, and the check that it has not changed."""

import os
import pathlib
from collections.abc import Mapping, Set
from typing import Any

import ml_collections

from experiments.common.files import read_json
from gmflow_jax._files import to_path

# Fields that may differ when a run is resumed. They affect its speed and its output files, not its numbers.
_FREE_TO_CHANGE = {
    "autoencoder", "checkpoint_every", "data.cache", "data.cache_gib", "data.folder", "data.num_threads",
    "data.num_workers", "eval_every", "inception", "keep_every", "keep_last", "log_every",
    "max_skipped_in_row", "mesh", "network.attention", "network.remat", "network.scan_layers",
    "num_microbatches", "parallel", "post_hoc_ema.every", "profile_steps", "reference", "report",
    "sample_every", "score_every", "score_samples", "teacher",
}  # fmt: skip

# Fields that older versions did not write, with the value that their runs had.
_ADDED = {"data.held_out": 0, "exif_orientation": False}

_OTHER_LENGTH = (
    " The length of this run is fixed, because its learning rate follows a {} over num_steps: with another "
    "num_steps, the steps made so far would have had other rates. Train the other length from its first step "
    "in a new folder; or there with --config.optimizer.schedule=constant, and you can change num_steps "
    "whenever you resume."
)


def check_unchanged(
    path: pathlib.Path, new: Mapping[str, Any], what: str, flag: str = "--workdir"
) -> None:
    """Check that a JSON file that an earlier call wrote, if there is one, has the same values as `new`.

    Args:
      path: the file.
      new: fields to compare; other fields of the file are ignored, and so are fields that may change.
      what: name of the contents, for the message.
      flag: flag that names the folder of the file, for the message.

    Raises:
      ValueError: if a field differs.
    """
    old = {name: value for name, value in read_json(path).items() if name in new} if path.exists() else new
    schedule = (new.get("optimizer") or {}).get("schedule")
    free = _FREE_TO_CHANGE | ({"num_steps"} if schedule == "constant" else set())
    changed = _differences(old, new, free)
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        other_length = schedule and any(change.startswith("num_steps ") for change in changed)
        raise ValueError(
            f"{path.parent} was made with another {what} ({'; '.join(changed[:3])}{more}). Give another "
            f"{flag}, or continue with the same {what}."
            f"{_OTHER_LENGTH.format(schedule) if other_length else ''}"
        )


def _differences(old: Any, new: Any, free: Set[str], name: str = "") -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = {key: f"{name}.{key}" if name else key for key in sorted(set(old) | set(new))}
        return [
            difference
            for key, full in names.items()
            for difference in _differences(
                old.get(key, _ADDED.get(full)), new.get(key, _ADDED.get(full)), free, full
            )
        ]
    if old == new or name in free or name.split(".")[0] in free:
        return []
    return [f"{name} was {_short(old)} and is now {_short(new)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def is_run(path: pathlib.Path) -> bool:
    """Return whether a folder is that of a run, whose config.json names a task."""
    return (path / "config.json").is_file() and "task" in read_json(path / "config.json")


def read_config(workdir: str | os.PathLike) -> ml_collections.ConfigDict:
    """Read the configuration of the run in `workdir`; raise ValueError if there is no run."""
    folder = to_path(workdir)
    if not folder.is_dir():
        raise ValueError(
            f"The workdir {workdir} does not exist. Train first: python -m experiments.train "
            f"--config=experiments/configs/digits.py --workdir={workdir}"
        )
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"The folder {workdir} holds no run: config.json is missing. Give the --workdir of a run of "
            "python -m experiments.train."
        )
    if not is_run(folder):
        raise ValueError(
            f"The folder {workdir} holds no run: its config.json names no task, as in a diffusers folder. "
            "Give the --workdir of a run of python -m experiments.train."
        )
    return ml_collections.ConfigDict(read_json(folder / "config.json"))
