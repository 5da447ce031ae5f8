"""Arrays in .npz files that are read in batches, since they are too large for memory."""

import contextlib
import io
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from os import PathLike
from typing import NamedTuple, cast

import numpy as np

from gmflow_jax._files import naming, to_path

_PIECE = 2**20  # bytes


class Header(NamedTuple):
    """Shape and type of an array in an .npy file."""

    shape: tuple[int, ...]
    fortran_order: bool
    dtype: np.dtype


def npz_shapes(path: str | PathLike[str]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return the shape and dtype of every array in an .npz file, by name; only the headers are read.

    Raises:
      ValueError: if the file is missing or damaged.
    """
    with _open(path) as archive:
        headers = {name: _header(archive, name, path)[1] for name in _names(archive)}
    return {name: (header.shape, header.dtype) for name, header in headers.items()}


def npz_rows(path: str | PathLike[str], name: str, batch_size: int) -> Iterator[np.ndarray]:
    """Read one array of an .npz file, compressed or not, in batches along its first axis.

    The batches are not kept. The sample files of ADM's evaluator hold `arr_0`, uint8 [N, H, W, 3].

    Args:
      path: the file.
      name: name of the array.
      batch_size: rows in a batch.

    Returns:
      An iterator over arrays [batch_size, ...], in order; the last one may be shorter.

    Raises:
      ValueError: at the call, if the file or the array is missing or the array is not one of numbers in rows;
        while iterating, if bytes are damaged.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; give at least 1.")
    with _open(path) as archive:
        if name not in _names(archive):
            there = ", ".join(_names(archive)) or "none"
            raise ValueError(f"{path} has no array {name!r}; the arrays in it are: {there}.")
        header = _header(archive, name, path)[1]
    if header.fortran_order and len(header.shape) > 1:
        raise ValueError(
            f"The array {name} in {path} is in Fortran order, so its rows are scattered over the file; save "
            "np.ascontiguousarray of it."
        )
    if not header.shape or header.dtype.hasobject or header.dtype.fields:
        raise ValueError(
            f"The array {name} in {path} has shape {header.shape} and dtype {header.dtype}, but rows of "
            "numbers are needed; save it as a plain array [N, ...]."
        )
    return _rows(path, name, batch_size)


def _rows(path: str | PathLike[str], name: str, batch_size: int) -> Iterator[np.ndarray]:
    with _open(path) as archive:
        file, header = _header(archive, name, path)
        num_rows, *row_shape = header.shape
        for start in range(0, num_rows, batch_size):
            shape = (min(batch_size, num_rows - start), *row_shape)
            try:
                yield _read(file, shape, header.dtype)
            except (zipfile.BadZipFile, zlib.error, EOFError, MemoryError) as error:
                raise _damaged(path, f"{name} from row {start} on: {error}") from error


def _read(file: io.BufferedIOBase, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Read the next numbers of a file; raise EOFError if there are too few."""
    array = np.empty(shape, dtype)
    content = array.reshape(-1).view(np.uint8)
    for start in range(0, content.size, _PIECE):  # zipfile needs as much memory again as it reads
        piece = content[start : start + _PIECE]
        if file.readinto(piece.data) < piece.size:
            raise EOFError("it ends too early")
    return array


@contextlib.contextmanager
def _open(path: str | PathLike[str]) -> Iterator[zipfile.ZipFile]:
    path = to_path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}; give the path of an .npz file.")
    with naming(path), path.open("rb") as file:
        try:
            archive = zipfile.ZipFile(file)
        except (zipfile.BadZipFile, NotImplementedError) as error:
            raise ValueError(
                f"{path} is no .npz file, or it is damaged ({error}); make it with np.savez or fetch it "
                "again."
            ) from error
        with archive:
            yield archive


def _names(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]


def _header(
    archive: zipfile.ZipFile, name: str, path: str | PathLike[str]
) -> tuple[io.BufferedIOBase, Header]:
    """Open an array at its first number, and return the file and the array's header."""
    try:
        if archive.getinfo(f"{name}.npy").flag_bits & 1:
            raise ValueError(f"{name} is encrypted")
        file = cast(io.BufferedIOBase, archive.open(f"{name}.npy"))  # a ZipExtFile, which can readinto
        return file, read_header(file)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise _damaged(path, error) from error


def read_header(file: io.BufferedIOBase | io.BytesIO) -> Header:
    """Read the header of an array in an .npy file; raise ValueError if it is damaged."""
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(file)
    if version not in readers:
        raise ValueError(f"its format has the version {version}, not (1, 0) or (2, 0)")
    try:
        return Header(*readers[version](file))
    except (tokenize.TokenError, SyntaxError, TypeError) as error:  # from numpy's parser of damaged headers
        raise ValueError(f"its header cannot be read: {error}") from error


def _damaged(path: str | PathLike[str], reason: object) -> ValueError:
    return ValueError(f"{path} is damaged ({reason}); make it or fetch it again.")
