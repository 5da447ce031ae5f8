"""A folder of latents while it grows: its plan, its shards with a report on each, its metadata."""

import functools
import json
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ._metadata import LatentMetadata, Shard
from ._shards import write_json, write_records, write_whole


def agree_on_plan(folder: pathlib.Path, plan: Mapping[str, Any], process_index: int) -> None:
    """Writes down what decides the bytes of a folder, or checks that it is what was written down.

    What this process was writing when it was killed is removed. Raises ValueError if the folder is of
    another plan, or holds other files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(f".*.{process_index}.tmp"):
        leftover.unlink()
    path, plan = folder / "plan.json", json.loads(json.dumps(plan))
    present = {child.name for child in folder.iterdir() if child.suffix != ".tmp"}
    if present and path.name not in present:
        raise ValueError(f"{folder} holds other files; give a new folder, so that nothing is lost.")
    if not present:
        write_json(path, plan, process_index)  # another process may write the same at this moment
    found = json.loads(path.read_text(encoding="utf-8"))
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
    report = {"num_records": len(records), "num_bytes": path.stat().st_size, "broken": list(broken)}
    write_json(_report_path(path), report, process_index)


def shard_report(path: pathlib.Path) -> dict[str, Any] | None:
    """What was written down about a shard, or None if it is not there."""
    report_path = _report_path(path)
    if not report_path.is_file() or not path.is_file():
        return None
    report = json.loads(report_path.read_text(encoding="utf-8"))
    return report if report["num_bytes"] == path.stat().st_size else None


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
        num_images=sum(report["num_records"] for report in reports),
        shards=tuple(
            Shard(path.name, report["num_records"], report["num_bytes"])
            for path, report in zip(paths, reports, strict=True)
        ),
        broken=tuple(name for report in reports for name in report["broken"]),
    )
    if not metadata.num_images:
        raise ValueError(
            "All images are broken, so there are no latents; check the images, then use a new folder."
        )
    write_json(paths[0].with_name("metadata.json"), metadata.to_json(), process_index)
    return metadata


def _report_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.json")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
