"""Files that appear under their name only when they are complete."""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np


def write_whole(
    path: pathlib.Path, write: Callable[[pathlib.Path], Any], writer: int | None = None
) -> None:
    """Write a file so that a crash at any moment leaves the old file or the new one, never a part.

    Args:
      path: the file; its folder must exist.
      write: write(temporary) makes the file under a temporary name beside `path`.
      writer: number of this writer among those that share the folder. It is part of the temporary name
        `.NAME.WRITER.tmp`, so that a later run can remove its own leftovers. None uses the process id.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid() if writer is None else writer}.tmp")
    try:
        write(temporary)
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_arrays(path: pathlib.Path, /, **arrays: Any) -> None:
    """Write named arrays as an .npz file, by `write_whole`."""

    def write(temporary: pathlib.Path) -> None:
        with temporary.open("wb") as file:  # np.savez appends .npz to a path, but not to an open file
            np.savez(file, **arrays)

    write_whole(path, write)
