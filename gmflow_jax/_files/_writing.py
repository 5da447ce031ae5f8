"""Reading and writing of files and folders, local or in a bucket."""

import contextlib
import os
import pathlib
import secrets
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from gmflow_jax._files._addresses import is_address, is_outage, naming

_LARGE = 5 << 20  # bytes above which gcsfs uploads a file in parts
_PART = 1 << 24  # bytes of one request of a download


def write_whole(path: pathlib.Path, write: Callable[[pathlib.Path], Any], writer: int | None = None) -> None:
    """Write a file so that a crash at any moment leaves the old file or the new one, never a part.

    Args:
      path: the file; its folder must exist, except in a bucket.
      write: write(temporary) makes the file under a temporary name: beside `path`, or for an address in the
        system's temporary folder, from which it is uploaded.
      writer: number of this writer among those that share the folder. It is part of the temporary name
        `.NAME.WRITER.tmp`, so that a later run can remove its own leftovers. None uses the process id.
    """
    if is_address(path):
        with tempfile.TemporaryDirectory(prefix="gmflow-") as folder:
            temporary = pathlib.Path(folder) / path.name
            write(temporary)
            upload(temporary, path)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid() if writer is None else writer}.tmp")
    try:
        with naming(path):
            write(temporary)
            with open(temporary, "rb+") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_folder(folder: pathlib.Path, write: Callable[[pathlib.Path], Any], last: str) -> None:
    """Write a folder so that a crash at any moment leaves none, or in a bucket one without the file `last`.

    Args:
      folder: the folder, new or empty.
      write: write(temporary) makes a folder under a temporary name, see `write_whole`.
      last: name of the file without which nobody reads the folder.
    """
    if is_address(folder):
        with tempfile.TemporaryDirectory(prefix="gmflow-") as name:
            temporary = pathlib.Path(name)
            write(temporary)
            upload_folder(temporary, folder, last)
        return
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    try:
        write(temporary)
        temporary.replace(folder)
    finally:
        remove_tree(temporary)


def check_writable(path: Any) -> None:
    """Raise `BucketError` if files beside an address cannot be written and removed; ignore local paths."""
    if is_address(path):
        probe = path.parent / f".writable-{secrets.token_hex(8)}"
        with naming(path):
            probe.fs.pipe_file(probe.path, b"")
            probe.fs.rm_file(probe.path)


def write_bytes(path: Any, content: bytes, writer: int | None = None) -> None:
    """Write `content`, by `write_whole`; to an address without a temporary file."""
    if not is_address(path):
        write_whole(path, lambda temporary: temporary.write_bytes(content), writer)
        return
    with naming(path):
        path.fs.pipe_file(path.path, content)


def upload(source: pathlib.Path, path: Any) -> None:
    """Copy a local file to an address, where it appears when it is complete.

    gcsfs tries each request for about half a minute. A large file has many, so all of it is tried again.
    """
    tries = 4 if source.stat().st_size > _LARGE else 1
    with naming(path):
        for attempt in range(1, tries + 1):
            try:
                path.fs.put_file(str(source), path.path)
                return
            except Exception as error:
                if attempt == tries or not is_outage(error):
                    raise


def upload_folder(source: pathlib.Path, folder: Any, last: str = "") -> None:
    """Copy the files of a local folder, also those in its subfolders, to an address; `last` comes last."""
    files = sorted(path for path in source.rglob("*") if path.is_file())
    for path in sorted(files, key=lambda path: path == source / last):
        upload(path, folder / path.relative_to(source).as_posix())


def create(path: Any, text: str) -> bool:
    """Create a file; return False if it exists. At most one of several processes gets True.

    All may get False if the answer of a bucket is lost: read the file to see whose it is.
    """
    try:
        with naming(path):
            if is_address(path):
                path.fs.pipe_file(path.path, text.encode(), mode="create")
                return True
            file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    try:
        with naming(path), os.fdopen(file, "w") as opened:
            opened.write(text)
    except OSError:  # a full disk
        path.unlink()
        raise
    return True


@contextlib.contextmanager
def local_copy(path: Any) -> Iterator[pathlib.Path]:
    """Yield a local path of a file: its own, or that of a copy that lasts as long as the context."""
    if not is_address(path):
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="gmflow-") as folder:
        copy = pathlib.Path(folder) / path.name
        download(path, copy)
        yield copy


def download(path: Any, copy: pathlib.Path) -> None:
    """Copy the file at an address to a local path, in parts, so that a failure costs one of them."""
    with naming(path):
        size = path.fs.info(path.path)["size"]
    with open(copy, "wb") as file:
        for start in range(0, size, _PART):
            file.write(read_bytes(path, start, min(_PART, size - start)))


def read_bytes(path: Any, start: int = 0, size: int | None = None) -> bytes:
    """Read `size` bytes of a file from byte `start`; None reads the rest."""
    with naming(path):
        if is_address(path):
            return path.fs.cat_file(path.path, start=start, end=None if size is None else start + size)
        with open(path, "rb") as file:
            file.seek(start)
            return file.read(size)


def remove_tree(path: Any) -> None:
    """Remove a folder and what is in it, as far as that is possible; errors are ignored."""
    import shutil

    if not is_address(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    with contextlib.suppress(Exception), ThreadPoolExecutor(16) as pool:
        names = path.fs.find(path.path)
        list(pool.map(path.fs.rm_file, names))  # fs.rm would take [ and * for patterns


def write_arrays(path: pathlib.Path, /, **arrays: Any) -> None:
    """Write named arrays as an .npz file, by `write_whole`."""

    def write(temporary: pathlib.Path) -> None:
        with temporary.open("wb") as file:  # np.savez appends .npz to a path, but not to an open file
            np.savez(file, **arrays)

    write_whole(path, write)
