"""Images in tar files, located by their offsets."""

import io
import pathlib
import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

from gmflow_jax._files import naming
from gmflow_jax.data._files import open_to_scan
from gmflow_jax.data._sources import (
    FileImage,
    check_none_without_class,
    is_hidden,
    is_image,
    warn_of_others,
)

_BLOCK = 512  # bytes
_NUM_THREADS = 8  # tars read at a time; a bucket answers slowly, but many at a time


class _Part(io.RawIOBase):
    """A part of a file as a file object, for a tar within a tar."""

    def __init__(self, file: BinaryIO, offset: int, size: int):
        self._file, self._offset, self._size, self._position = file, offset, size, 0

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = base + position
        return self._position

    def tell(self) -> int:
        return self._position

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        length = max(min(len(buffer), self._size - self._position), 0)
        self._file.seek(self._offset + self._position)
        data = self._file.read(length)
        buffer[:len(data)] = data
        self._position += len(data)
        return len(data)


def images_of_tars(paths: Sequence[pathlib.Path]) -> list[FileImage]:
    """Locate the images in tar files and in the tars within them.

    The class of an image is its folder. If it is in no folder, the class is the name of its tar, provided
    that there are several tars or the tar is within another.

    Raises:
      ValueError: if a tar is compressed, incomplete or no tar, or an image has no class.
    """
    def images_of(path: pathlib.Path) -> tuple[list[FileImage], list[str]]:
        others: list[str] = []
        class_folder = path.stem if len(paths) > 1 else None
        with naming(path), open_to_scan(path) as file:
            size = file.seek(0, io.SEEK_END)
            return list(_images(file, 0, size, class_folder, str(path), others)), others

    images, stray, others = [], [], []
    with ThreadPoolExecutor(_NUM_THREADS) as pool:
        for found, not_read in pool.map(images_of, paths):
            others += not_read
            for image in found:
                (images if image.class_folder else stray).append(image)
    warn_of_others(others, ", ".join(map(str, paths[:3])))
    check_none_without_class([image.name for image in stray], ", ".join(map(str, paths[:3])))
    return images


def _images(
    file: BinaryIO, offset: int, size: int, class_folder: str | None, path: str, others: list[str]
) -> Iterator[FileImage]:
    """Yield the images of a tar, and append the names of other files to `others`."""
    for name, start, length in _members(_Part(file, offset, size), f"{path} at byte {offset}"):
        member = pathlib.PurePosixPath(name)
        if any(is_hidden(part) for part in member.parts if part != ".."):
            continue
        if member.suffix.lower() == ".tar":
            yield from _images(file, offset + start, length, member.stem, path, others)
        elif is_image(name):
            folder = member.parent.name or class_folder or ""
            yield FileImage(folder, f"{folder}/{member.name}", path, offset + start, length)
        else:
            others.append(name)


def _members(part: _Part, where: str) -> Iterator[tuple[str, int, int]]:
    """Yield the name, the offset and the size of each file in a tar."""
    try:
        with tarfile.open(fileobj=part, mode="r:") as tar:
            for member in tar:
                if member.isreg():
                    yield member.name, member.offset_data, member.size
            end = tar.offset
    except tarfile.TarError as error:
        raise ValueError(
            f"The tar file {where} cannot be read ({error}); it is compressed or not whole. Uncompress it, "
            "or copy it again."
        ) from error
    part.seek(end)
    # Python's tarfile accepts the end of the file as the end of the archive.
    if part.read(_BLOCK) != bytes(_BLOCK):
        raise ValueError(f"The tar file {where} has no end mark, so it is not whole; copy it again.")
