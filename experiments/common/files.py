"""Reading and writing of files: JSON with clear errors, and no file that is written only in part."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from gmflow_jax import evaluation
from gmflow_jax._files import check_writable, is_address, read_bytes, to_path, write_bytes

_BATCH = 1024  # rows of an array read at a time


def read_array(path: str | os.PathLike, name: str) -> np.ndarray:
    """Read an array of an .npz file; raise ValueError if there is no such array, or it is damaged."""
    return np.concatenate(list(evaluation.npz_rows(path, name, _BATCH)) or [np.empty(0)])


def expand_home(path: str) -> str:
    """Replace the ~ or ~user at the start of a path, or of each path of a comma-separated list.

    A shell does so only at the start of a word, so not in --workdir=~/runs. Raises ValueError if there is no
    such user.
    """
    parts = [os.path.expanduser(part) for part in path.split(",")]
    for part in parts:
        if part.startswith("~"):
            raise ValueError(f"there is no home folder {part.split('/')[0]}; write ./~ for a name with ~")
    return ",".join(parts)


def check_parent(path: str | os.PathLike) -> None:
    """Raise an error if the folder of `path` does not exist, or if a bucket cannot be written to."""
    path = to_path(path)
    check_writable(path)
    if path.parent.is_file() if is_address(path) else not path.absolute().parent.is_dir():
        raise ValueError(f"The folder of {path} does not exist. Create it, or give another path.")


def check_output(given: str, needed: str) -> None:
    """Raise an error if a file or folder cannot be written; `needed` says which, "file" or "folder"."""
    path = to_path(given)
    check_parent(path)
    if path.exists() and path.is_dir() == (needed == "file"):
        kind = "folder" if path.is_dir() else "file"
        raise ValueError(f"{path} exists and is a {kind}, but must be a {needed}; give another path.")


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read the JSON object in a file of a run; raise ValueError if the file is damaged."""
    try:
        content = json.loads(read_bytes(path).decode())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}); restore it, or give another --workdir.") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} is damaged: it holds no JSON object; restore it, or give another --workdir."
        )
    return content


def write_json(path: pathlib.Path, content: Mapping[str, Any], sort_keys: bool = True) -> None:
    """Write JSON; the file is replaced as a whole or left as it was.

    Args:
      path: the file.
      content: values that can be written as JSON.
      sort_keys: whether keys are sorted; reports keep the order of `content`.
    """
    write_text(path, json.dumps(content, indent=2, sort_keys=sort_keys) + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
    """Write `text`; the file is replaced as a whole or left as it was."""
    write_bytes(path, text.encode())
