"""Files that appear under their name only when they are complete."""

import contextlib
import errno
import os
import pathlib
import re
from collections.abc import Callable, Iterator
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
        with naming(path):
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def naming(path: pathlib.Path) -> Iterator[None]:
    """Add the path to an OSError that names no file, as from writing to an open file."""
    try:
        yield
    except OSError as error:
        number, reason = error.errno, error.strerror
        if number is None and "requested and" in str(error):  # NumPy's, if a write is cut short
            number, reason = errno.ENOSPC, os.strerror(errno.ENOSPC)
        if error.filename is not None or number is None:
            raise
        raise OSError(number, reason, os.fspath(path)) from error


def error_number(error: BaseException | None) -> int | None:
    """Return the number of the system's error that caused an error of any type, or None if there is none."""
    while error is not None:
        if isinstance(error, OSError) and error.errno is not None:
            return error.errno
        found = re.search(r"os_error_code='(\d+)'", str(error))  # TensorStore raises ValueError
        if found:
            return int(found[1])
        error = error.__cause__ or error.__context__
    return None


def write_arrays(path: pathlib.Path, /, **arrays: Any) -> None:
    """Write named arrays as an .npz file, by `write_whole`."""

    def write(temporary: pathlib.Path) -> None:
        with temporary.open("wb") as file:  # np.savez appends .npz to a path, but not to an open file
            np.savez(file, **arrays)

    write_whole(path, write)
