"""A folder of latents while it grows: its plan, its shards with a report on each, its metadata."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gmflow_jax._files import write_whole
from gmflow_jax.data._files import read_json, write_json
from gmflow_jax.data._metadata import LatentMetadata, Shard
from gmflow_jax.data._shards import write_records


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """What was written down about a shard; `broken` names the images that it lacks."""

    num_records: int
    num_bytes: int
    broken: tuple[str, ...]


@contextlib.contextmanager
def claim(folder: pathlib.Path, process_index: int) -> Iterator[None]:
    """Makes the folder if there is none, and keeps others of the same index out of it.

    What a process of this index was writing when it was killed is removed. Raises ValueError if one is
    at work, or the folder is a file.
    """
    import fcntl  # not on Windows, where the rest of this package can be imported

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{folder} is a file, or lies below one; give a folder.") from error
    path = folder / f".process-{process_index}.lock"
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # ends with the process, also if it is killed
            free = os.path.samefile(path, file.fileno())  # not if who held the lock removed it just now
        except (BlockingIOError, FileNotFoundError):
            free = False
        except OSError:
            free = True  # the file system has no locks
        if not free:
            raise ValueError(
                f"Another process of index {process_index} is writing to {folder}; give each its own index, "
                "below their number, or wait for it."
            )
        try:
            for leftover in folder.glob(f".*.{process_index}.tmp"):
                leftover.unlink()
            yield
        finally:
            path.unlink(missing_ok=True)


def agree_on_plan(folder: pathlib.Path, plan: Mapping[str, Any], process_index: int) -> None:
    """Writes down what decides the bytes of a folder, or checks that it is what was written down.

    Raises ValueError if the folder is of another plan, or holds other files.
    """
    path, plan = folder / "plan.json", json.loads(json.dumps(plan))
    present = {child.name for child in folder.iterdir() if child.suffix not in (".tmp", ".lock")}
    if present and path.name not in present:
        raise ValueError(f"{folder} holds other files; give a new folder, so that nothing is lost.")
    if not present:
        write_json(path, plan, process_index)  # another process may write the same at this moment
    found = read_json(path, Mapping[str, Any], "copy it again, or give a new folder")
    differing = [name for name in plan | found if found.get(name) != plan.get(name)]
    if differing:
        listing = ", ".join(
            f"{name} ({_short(found.get(name))} there, {_short(plan.get(name))} here)" for name in differing
        )
        raise ValueError(
            f"{folder} holds latents of another plan, which differs in {listing}; give another folder, or "
            "the same options to go on with these."
        )


def write_shard(
    path: pathlib.Path, container: str, records: np.ndarray, broken: Sequence[str], process_index: int
) -> None:
    """Writes records, then a report on them, without which a shard counts as missing."""
    write = functools.partial(write_records, container=container, records=records)
    write_whole(path, write, process_index)
    report = ShardReport(len(records), path.stat().st_size, tuple(broken))
    write_json(_report_path(path), dataclasses.asdict(report), process_index)


def shard_report(path: pathlib.Path) -> ShardReport | None:
    """What was written down about a shard, or None if it is not there; ValueError if that is damaged."""
    report_path = _report_path(path)
    if not report_path.is_file() or not path.is_file():
        return None
    report = read_json(report_path, ShardReport, "remove it, and the shard is made anew")
    return report if report.num_bytes == path.stat().st_size else None


def write_metadata(
    paths: Sequence[pathlib.Path],
    common: Mapping[str, Any],
    class_names: Mapping[str, str],
    process_index: int,
) -> LatentMetadata | None:
    """Writes the metadata beside the shards if all are there, else returns None.

    Raises ValueError if they hold no latent.
    """
    reports = [shard_report(path) for path in paths]
    if None in reports:
        return None
    metadata = LatentMetadata(
        **common,
        class_names=class_names,
        num_images=sum(report.num_records for report in reports),
        shards=tuple(
            Shard(path.name, report.num_records, report.num_bytes)
            for path, report in zip(paths, reports, strict=True)
        ),
        broken=tuple(name for report in reports for name in report.broken),
    )
    if not metadata.num_images:
        raise ValueError(
            "All images are broken, so there are no latents; mend them and run the command again. For "
            f"images of other names, remove {paths[0].parent} first."
        )
    write_json(paths[0].with_name("metadata.json"), metadata.to_json(), process_index)
    return metadata


def _report_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.json")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
