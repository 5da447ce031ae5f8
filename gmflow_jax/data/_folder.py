"""A folder of latents while it is written: its plan, its shards with a report on each, its metadata."""

import contextlib
import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from gmflow_jax._files import create, is_address, write_whole
from gmflow_jax.data._files import children, file_sizes, read_json, write_json
from gmflow_jax.data._metadata import LatentMetadata, Shard
from gmflow_jax.data._shards import write_records
from gmflow_jax.data._sources import is_hidden

_NUM_THREADS = 8  # reports read at a time; a bucket answers slowly, but many at a time


@dataclasses.dataclass(frozen=True)
class ShardReport:
    """The contents of <shard>.json, which describes a finished shard.

    Attributes:
      num_records: records in the shard.
      num_bytes: size of its file.
      broken: names of the images that were left out because they could not be read.
    """

    num_records: int
    num_bytes: int
    broken: tuple[str, ...]


@contextlib.contextmanager
def claim(folder: pathlib.Path, process_index: int) -> Iterator[None]:
    """Lock the folder against other processes of the same index, and make it if it does not exist.

    Temporary files that a killed process of this index left are removed. A bucket has neither locks nor
    temporary files; there, two processes of one index waste work, but write the same whole files.

    Args:
      folder: the folder of latents.
      process_index: number of this process.

    Raises:
      ValueError: if another process of this index is writing, or the folder is a file.
    """
    import fcntl  # not on Windows, where the rest of this package can be imported

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise ValueError(f"{folder} is a file, or lies below one; give a folder.") from error
    if is_address(folder):
        yield
        return
    path = folder / f".process-{process_index}.lock"
    with open(path, "w") as file:
        try:
            # The lock is released when the process ends, also if it is killed.
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = os.path.samefile(path, file.fileno())  # False if the previous holder just removed it
        except (BlockingIOError, FileNotFoundError):
            free = False
        except OSError:
            free = True  # the file system has no locks
        if not free:
            raise ValueError(
                f"Another process of index {process_index} is writing to {folder}; give each "
                "process its own index, or wait for it."
            )
        try:
            for leftover in folder.glob(f".*.{process_index}.tmp"):
                leftover.unlink()
            yield
        finally:
            path.unlink(missing_ok=True)


def agree_on_plan(folder: pathlib.Path, plan: Mapping[str, Any], process_index: int) -> None:
    """Write the options that determine the bytes of a folder to plan.json, or compare them with that file.

    Args:
      folder: the folder of latents.
      plan: the options, as JSON.
      process_index: number of this process.

    Raises:
      ValueError: if the folder has another plan, or holds other files.
    """
    path, plan = folder / "plan.json", json.loads(json.dumps(plan))
    names = (name for name in children(folder) if not name.endswith((".tmp", ".lock")))
    present = {name for name in names if not is_hidden(name)}
    if present and path.name not in present:
        raise ValueError(f"{folder} holds other files; give a new folder, so that nothing is lost.")
    if not present and is_address(folder):
        create(path, json.dumps(plan, indent=2, ensure_ascii=False) + "\n")  # of several processes one does
    elif not present:
        write_json(path, plan, process_index)  # another process may write the same content at this moment
    older = {"exif_orientation": False}  # plans from before this option lack it
    found = older | read_json(path, Mapping[str, Any], "copy it again, or give a new folder")
    differing = [name for name in plan | found if found.get(name) != plan.get(name)]
    if differing:
        listing = ", ".join(
            f"{name} ({_short(found.get(name))} there, {_short(plan.get(name))} here)" for name in differing
        )
        raise ValueError(
            f"{folder} holds latents of another plan, which differs in {listing}; give another folder, or "
            "the same options to continue these latents."
        )


def write_shard(
    path: pathlib.Path, container: str, records: np.ndarray, broken: Sequence[str], process_index: int
) -> None:
    """Write a shard, then its report. A shard without a report counts as missing.

    Args:
      path: file of the shard.
      container: 'array_record' or 'npy'.
      records: records [n].
      broken: names of the images that were left out.
      process_index: number of this process.
    """
    sizes = []

    def write(temporary: pathlib.Path) -> None:
        write_records(temporary, container, records)
        sizes.append(temporary.stat().st_size)

    write_whole(path, write, process_index)
    report = ShardReport(len(records), sizes[0], tuple(broken))
    write_json(_report_path(path), dataclasses.asdict(report), process_index)


def shard_reports(paths: Sequence[pathlib.Path]) -> dict[pathlib.Path, ShardReport | None]:
    """Read the reports on shards of one folder.

    Returns:
      By path, the report, or None if the shard or its report is missing, or the size of the file differs.

    Raises:
      ValueError: if a report is damaged.
    """
    sizes = file_sizes(paths[0].parent) if paths else {}

    def report_on(path: pathlib.Path) -> ShardReport | None:
        report_path = _report_path(path)
        if report_path.name not in sizes or path.name not in sizes:
            return None
        report = read_json(report_path, ShardReport, "remove it, and the shard is made again")
        return report if report.num_bytes == sizes[path.name] else None

    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        return dict(zip(paths, pool.map(report_on, paths), strict=True))


def broken_images(paths: Sequence[pathlib.Path]) -> list[str]:
    """Return the names of the images that these shards lack."""
    return [name for report in shard_reports(paths).values() if report for name in report.broken]


def write_metadata(
    paths: Sequence[pathlib.Path],
    common: Mapping[str, Any],
    class_names: Mapping[str, str],
    process_index: int,
) -> LatentMetadata | None:
    """Write metadata.json if all shards are there.

    Args:
      paths: the files of all shards.
      common: the fields that do not depend on the shards.
      class_names: names of each class folder.
      process_index: number of this process.

    Returns:
      The metadata, or None if a shard is missing.

    Raises:
      ValueError: if the shards hold no latent.
    """
    reports = [report for report in shard_reports(paths).values() if report is not None]
    if len(reports) < len(paths):
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
            "All images are broken, so there are no latents; repair them and run the command again. If "
            f"their names change, remove {paths[0].parent} first."
        )
    write_json(paths[0].with_name("metadata.json"), metadata.to_json(), process_index)
    return metadata


def _report_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.json")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
