"""Files that programs read and write: JSON with clear errors, and no file that is written in part."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gmflow_jax._files import write_whole


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """A json file of a run; ValueError with a sentence if it is damaged."""
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or give another --workdir.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: no json object; restore it, or give another --workdir.")
    return content


def write_json(path: pathlib.Path, content: Mapping[str, Any]) -> None:
    write_text(path, json.dumps(content, indent=2, sort_keys=True) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_bytes(path: pathlib.Path, content: bytes) -> None:
    write_whole(path, lambda temporary: temporary.write_bytes(content))


def write_arrays(path: pathlib.Path, **arrays: np.ndarray) -> None:
    """Write an .npz file."""

    def write(temporary: pathlib.Path) -> None:
        with temporary.open("wb") as file:  # np.savez would append .npz to a name
            np.savez(file, **arrays)

    write_whole(path, write)
