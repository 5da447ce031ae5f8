"""Images with classes, independent of where they are stored."""

import abc
import hashlib
import io
import pathlib
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from gmflow_jax._files import read_bytes, to_path

# What Pillow cannot open, such as .heic without a plugin, is listed as broken.
SUFFIXES = (
    ".apng", ".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".jxl",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
# Files and folders that systems add to those of the user; they hold thumbnails, deleted images or settings.
_OF_THE_SYSTEM = {
    "#recycle", "$recycle.bin", "@eadir", "@recycle", "__macosx", "desktop.ini", "lost+found",
    "system volume information", "thumbs.db",
}  # fmt: skip


class ImageSource(abc.ABC):
    """Images in a fixed order, each with a class; `open_images` makes one.

    Attributes:
      kind: 'folder', 'tar' or 'tfds'.
      class_folders: name of each class, by label.
    """

    kind: str
    class_folders: tuple[str, ...]

    @abc.abstractmethod
    def __len__(self) -> int: ...

    @property
    @abc.abstractmethod
    def labels(self) -> np.ndarray:
        """The label of each image, int32 [N]."""

    @abc.abstractmethod
    def name(self, i: int) -> str:
        """Return a name of image i that identifies it to a person."""

    @abc.abstractmethod
    def open(self, i: int) -> Image.Image:
        """Open image i, whose pixels may be read later.

        Raises:
          OSError: if its bytes are no image.
        """

    @property
    def description(self) -> dict[str, Any]:
        """Identity of the images, as JSON: kind, number, and a hash of names and labels."""
        names = "\n".join(self.name(i) for i in range(len(self)))
        digest = hashlib.sha256(names.encode() + self.labels.astype("<i4").tobytes())
        return {"kind": self.kind, "num_images": len(self), "sha256": digest.hexdigest()}


class FileImage(NamedTuple):
    """The location of an image's bytes.

    Attributes:
      class_folder: name of its class.
      name: name of the image.
      path: the file; a string, which for millions of images takes less memory than a path.
      offset: first byte in the file.
      size: number of bytes; None is the rest of the file.
    """

    class_folder: str
    name: str
    path: str
    offset: int = 0
    size: int | None = None


class FileSource(ImageSource):
    """Images in files, sorted by class and name.

    A file is opened for each read, so that threads and processes may share a source.
    """

    def __init__(self, kind: str, images: Iterable[FileImage]):
        self.kind, self._images = kind, sorted(images)
        self.class_folders = tuple(sorted({image.class_folder for image in self._images}))
        label_of = {folder: label for label, folder in enumerate(self.class_folders)}
        self._labels = np.array([label_of[image.class_folder] for image in self._images], np.int32)

    def __len__(self) -> int:
        return len(self._images)

    @property
    def labels(self) -> np.ndarray:
        return self._labels

    def name(self, i: int) -> str:
        return self._images[i].name

    def open(self, i: int) -> Image.Image:
        image = self._images[i]
        return Image.open(io.BytesIO(read_bytes(to_path(image.path), image.offset, image.size)))


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is hidden by a dot, or was added by a system, such as @eaDir."""
    return name.startswith(".") or name.lower() in _OF_THE_SYSTEM


def is_image(name: str) -> bool:
    """Tell whether a file name has the suffix of an image."""
    return pathlib.PurePosixPath(name).suffix.lower() in SUFFIXES


def warn_of_others(names: Sequence[str], where: str) -> None:
    """Warn of files that are not read because they have no suffix of an image.

    Args:
      names: names of the files.
      where: the place that holds them, for the message.
    """
    if names:
        suffixes = sorted({pathlib.PurePosixPath(name).suffix.lower() or "none" for name in names})
        listing = ", ".join(suffixes[:5]) + (", ..." if len(suffixes) > 5 else "")
        warnings.warn(
            f"{where} holds files that are not read, because their endings ({listing}) are not those of "
            f"images: {len(names)}, such as {names[0]}.",
            stacklevel=4,  # the caller of `open_images`
        )


def check_none_without_class(names: Sequence[str], where: str) -> None:
    """Raise ValueError if there are images without a class.

    Args:
      names: names of the images without a class.
      where: the place that holds them, for the error message.
    """
    if names:
        raise ValueError(
            f"{len(names)} images in {where}, such as {names[0]}, are in no folder, so their class is not "
            "known; put the images of each class into a folder named after it."
        )
