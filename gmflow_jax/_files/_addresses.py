"""Addresses of buckets as paths, and sentences for what can go wrong with them.

A path with a scheme, such as gs://bucket/folder, is an address: universal_pathlib gives it the methods of
`pathlib.Path`, and fsspec does the work. A bucket has no folders: one exists as long as there is a file below
it. A file in a bucket cannot be appended to, and is replaced as a whole.
"""

import contextlib
import errno
import functools
import os
import pathlib
import posixpath
import re
from collections.abc import Iterator
from typing import Any

_ADDRESS = re.compile(r"([a-zA-Z][\w+.-]+):/+(.*)", re.DOTALL)  # pathlib turns // into /
_BUCKETS = {"abfs", "abfss", "adl", "az", "gcs", "gs", "hf", "s3", "s3a"}  # schemes of stores without folders
# Packages whose errors mean that a bucket could not be used.
_CLIENTS = re.compile(
    r"(aiohttp|aiobotocore|botocore|fsspec|gcsfs|google\.(api_core|auth|cloud)|requests|s3fs|urllib3)\b"
)
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
    (r"\b404\b|FileNotFoundError|NOT_FOUND|Not Found|NoSuchBucket", _MISSING),
    ("", _UNREACHABLE),
)
_NAMES = re.compile(r"\w+://\S*|\b[bo]/\S*")  # addresses, in which a number is no status of HTTP


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
    if scheme.lower() in ("file", "local"):
        return pathlib.Path(f"/{rest}")
    if not rest:
        raise ValueError(f"{path} names no bucket; give an address such as {scheme}://BUCKET/FOLDER.")
    address = f"{scheme.lower()}://{posixpath.normpath(rest)}"  # a name in a bucket may end in a slash
    try:
        import fsspec.config
        import upath

        protocols = fsspec.get_filesystem_class(scheme.lower()).protocol
    except ImportError as error:
        raise ValueError(
            f"{address} is the address of a bucket, which needs packages that are not installed "
            f"({str(error).rstrip('.')}). Install this package with its extra buckets, for instance "
            "pip install -e '.[train,buckets]', for s3:// also s3fs; or give a path of the file system."
        ) from error
    except ValueError as error:
        raise ValueError(f"{address} cannot be opened: {str(error).rstrip('.')}.") from error
    for protocol in (protocols,) if isinstance(protocols, str) else protocols:
        # Other hosts write to the bucket too, so listings must not be kept. Orbax shares this setting.
        fsspec.config.conf.setdefault(protocol, {}).setdefault("use_listings_cache", False)
    return _strict(type(upath.UPath(address)))(address)  # its methods are those of pathlib.Path


class _Strict:
    """Methods of a path in a bucket that raise its errors, for which fsspec would return False.

    `unlink` and `mkdir` differ too: those of fsspec take [ and * for patterns, and create buckets.
    """

    def __new__(cls, *args: Any, **kwargs: Any):
        return object.__new__(cls)  # universal_pathlib would return its own class

    def __reduce__(self) -> Any:
        return to_path, (str(self),)

    def _kind(self: Any) -> str | None:
        with naming(self):
            try:
                return self.fs.info(self.path)["type"]
            except FileNotFoundError:
                return None

    def exists(self) -> bool:
        return self._kind() is not None

    def is_file(self) -> bool:
        return self._kind() == "file"

    def is_dir(self) -> bool:
        return self._kind() == "directory"

    def iterdir(self: Any) -> Iterator[Any]:
        if not self.is_dir():
            raise NotADirectoryError(str(self))
        with naming(self):
            names = self.fs.ls(self.path, detail=False)
        names = [name.rstrip("/") for name in names]  # some tools write an object for the folder itself
        return (self / name.rpartition("/")[2] for name in names if name != self.path)

    def unlink(self: Any, missing_ok: bool = False) -> None:
        with naming(self):
            try:
                self.fs.rm_file(self.path)
                return
            except FileNotFoundError:
                if missing_ok:
                    return
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self))

    def mkdir(self: Any, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
        """Check `exist_ok`; nothing is made in a bucket, where fsspec would make the bucket, too."""
        if not exist_ok and self.exists():
            raise FileExistsError(str(self))
        if self.protocol not in _BUCKETS:
            self.fs.makedirs(self.path, exist_ok=True)


@functools.cache
def _strict(kind: type) -> Any:
    return type(kind.__name__, (_Strict, kind), {"__slots__": (), "__module__": __name__})


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
    return f"{path}: {_advice(error)}. ({' '.join(str(error).split())[:300]})"


def is_outage(error: BaseException) -> bool:
    """Return whether an error, or its message, says that a bucket could not be reached."""
    return _UNREACHABLE in (bucket_problem(error) or str(error))


def _advice(error: BaseException) -> str:
    text = " ".join(f"{type(part).__name__} {_NAMES.sub('', str(part))}" for part in causes(error))
    return next(advice for pattern, advice in _ADVICE if re.search(pattern, text))


def _of_a_bucket(error: BaseException) -> bool:
    """Return whether an error comes from the client of a bucket."""
    if error_number(error) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):  # the local disk, in a download
        return False
    if _CLIENTS.match(type(error).__module__):
        return True
    if not isinstance(error, (OSError, RuntimeError, ValueError)):
        return False
    frames, innermost = error.__traceback__, ""
    while frames is not None:  # these packages also raise errors of Python's types
        innermost, frames = frames.tb_frame.f_globals.get("__name__", ""), frames.tb_next
    return _CLIENTS.match(innermost) is not None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and those that caused it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def error_number(error: BaseException | None) -> int | None:
    """Return the number of the system's error that caused an error of any type, or None if there is none."""
    for part in causes(error):
        if isinstance(part, OSError) and part.errno is not None:
            return part.errno
        found = re.search(r"os_error_code='(\d+)'", str(part))  # TensorStore raises ValueError
        if found:
            return int(found[1])
    return None
