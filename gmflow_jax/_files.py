"""Files and folders, local or in a bucket. Files appear under their name only when they are complete.

A path with a scheme, such as gs://bucket/folder, is an address: universal_pathlib gives it the methods of
`pathlib.Path`, and fsspec does the work. A bucket has no folders: one exists as long as there is a file below
it. A file in a bucket cannot be appended to, and is replaced as a whole.
"""

import contextlib
import errno
import os
import pathlib
import re
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

_ADDRESS = re.compile(r"([a-zA-Z][\w+.-]+):/+(.*)", re.DOTALL)  # pathlib turns // into /
# Packages whose errors mean that a bucket could not be used.
_CLIENTS = {"aiohttp", "aiobotocore", "botocore", "fsspec", "gcsfs", "google", "requests", "s3fs", "urllib3"}
_NO_CREDENTIALS = (
    "this machine has no valid credentials for it. On Google Cloud, give the service account of the machine "
    "access to the bucket; elsewhere run gcloud auth application-default login"
)
_FORBIDDEN = (
    "the credentials of this machine do not allow this. Give its account the right to read, write, list and "
    "delete, on Google Cloud the role roles/storage.objectAdmin on the bucket"
)
_MISSING = "there is no such bucket or file. Check the name; the programs create no bucket"
_UNREACHABLE = "it could not be reached. Check the network and the bucket; the same command continues"
_ADVICE = (  # by what an error says, in this order
    (r"\b401\b|[Cc]redentials|UNAUTHENTICATED|RefreshError", _NO_CREDENTIALS),
    (r"\b403\b|Forbidden|PermissionError|PERMISSION_DENIED", _FORBIDDEN),
    (r"\b404\b|FileNotFoundError|NOT_FOUND|NoSuchBucket", _MISSING),
    ("", _UNREACHABLE),
)


class BucketError(OSError):
    """An error of a bucket, with a message for the user."""


def is_address(path: Any) -> bool:
    """Return whether a path has a scheme, such as gs://bucket/folder."""
    return _ADDRESS.match(str(path)) is not None


def to_path(path: Any) -> pathlib.Path:
    """Return a path for a local file or folder, or for an address.

    Args:
      path: a string or a path. An address may also be a `pathlib.Path`.

    Returns:
      A `pathlib.Path`, or for an address a path of universal_pathlib, which has the same methods.

    Raises:
      ValueError: if a package that the address needs is not installed, or the scheme is not known.
    """
    match = _ADDRESS.match(str(path))
    if match is None:
        return pathlib.Path(path)
    scheme, rest = match.groups()
    address = f"{scheme.lower()}://{rest}"
    try:
        import fsspec.config
        import upath
    except ImportError as error:
        raise ValueError(
            f"{address} is the address of a bucket, which needs packages that are not installed "
            f"({error.name}). Install this package with its extra buckets, for instance pip install -e "
            "'.[train,buckets]', or give a path of the file system."
        ) from error
    try:
        protocols = fsspec.get_filesystem_class(scheme.lower()).protocol
    except (ImportError, ValueError) as error:
        raise ValueError(f"{address} cannot be opened: {str(error).rstrip('.')}.") from error
    for protocol in (protocols,) if isinstance(protocols, str) else protocols:
        # Other hosts write to the bucket too, so listings must not be kept. Orbax shares this setting.
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    return upath.UPath(address)  # pyright: ignore[reportReturnType]  # its methods are those of pathlib.Path


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


def upload(source: pathlib.Path, path: Any) -> None:
    """Copy a local file to an address, where it appears when it is complete."""
    with naming(path):
        path.fs.put_file(str(source), path.path)


def create(path: Any, text: str) -> bool:
    """Create a file; return False if it exists. Exactly one of several processes succeeds."""
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
    """Copy the file at an address to a local path."""
    with naming(path):
        path.fs.get_file(path.path, str(copy))


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
    with contextlib.suppress(Exception):
        path.fs.rm(path.path, recursive=True)


@contextlib.contextmanager
def naming(path: Any) -> Iterator[None]:
    """Add the path to an OSError that names no file, and turn errors of a bucket into such errors."""
    try:
        yield
    except Exception as error:
        if is_address(path) and not isinstance(error, FileExistsError):
            problem = bucket_problem(error, str(path))
            if problem is not None:
                raise BucketError(problem) from error
        if not isinstance(error, OSError):
            raise
        number, reason = error.errno, error.strerror
        if number is None and "requested and" in str(error):  # NumPy's, if a write is cut short
            number, reason = errno.ENOSPC, os.strerror(errno.ENOSPC)
        if error.filename is not None or number is None:
            raise
        raise OSError(number, reason, str(path)) from error


def bucket_problem(error: BaseException, path: str = "A bucket") -> str | None:
    """Return a sentence that says why a bucket could not be used, or None if an error has another cause.

    Args:
      error: the error, of whatever type the client of the bucket raises.
      path: the address, if it is known.
    """
    if isinstance(error, BucketError):
        return str(error)
    return describe_bucket_error(error, path) if _of_a_bucket(error) else None


def describe_bucket_error(error: BaseException, path: str) -> str:
    """Return a sentence for an error of a bucket: why, and what to do."""
    text = " ".join(f"{type(part).__name__} {part}" for part in _chain(error))
    advice = next(advice for pattern, advice in _ADVICE if re.search(pattern, text))
    return f"{path}: {advice}. ({' '.join(str(error).split())[:300]})"


def _of_a_bucket(error: BaseException) -> bool:
    """Return whether an error comes from the client of a bucket."""
    if type(error).__module__.partition(".")[0] in _CLIENTS:
        return True
    frames, innermost = error.__traceback__, ""
    while frames is not None:  # these packages also raise errors of Python's types
        innermost, frames = frames.tb_frame.f_globals.get("__name__", ""), frames.tb_next
    return innermost.partition(".")[0] in _CLIENTS


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def error_number(error: BaseException | None) -> int | None:
    """Return the number of the system's error that caused an error of any type, or None if there is none."""
    for part in _chain(error):
        if isinstance(part, OSError) and part.errno is not None:
            return part.errno
        found = re.search(r"os_error_code='(\d+)'", str(part))  # TensorStore raises ValueError
        if found:
            return int(found[1])
    return None


def write_arrays(path: pathlib.Path, /, **arrays: Any) -> None:
    """Write named arrays as an .npz file, by `write_whole`."""

    def write(temporary: pathlib.Path) -> None:
        with temporary.open("wb") as file:  # np.savez appends .npz to a path, but not to an open file
            np.savez(file, **arrays)

    write_whole(path, write)
