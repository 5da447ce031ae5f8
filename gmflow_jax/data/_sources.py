"""Photographs with classes, wherever they are stored."""

import abc
import hashlib
import io
import os
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ._files import local_path

SUFFIXES = (".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")


class ImageSource(abc.ABC):
    """Images in a fixed order, each of a class; `open_images` makes one.

    Attributes:
      kind: 'folder', 'tar' or 'tfds'.
      class_folders: Name of each class, by label.
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
        """The name of image i, by which a person finds it."""

    @abc.abstractmethod
    def open(self, i: int) -> Image.Image:
        """Image i, whose pixels may be read later; raises OSError if its bytes are no image."""

    @property
    def description(self) -> dict[str, Any]:
        """What tells these images from others, as JSON: kind, number and a hash of names and labels."""
        names = "\n".join(self.name(i) for i in range(len(self)))
        digest = hashlib.sha256(names.encode() + self.labels.astype("<i4").tobytes())
        return {"kind": self.kind, "num_images": len(self), "sha256": digest.hexdigest()}


class FileImage(NamedTuple):
    """Where the bytes of an image are; a size of None stands for the rest of the file."""

    class_folder: str
    name: str
    path: str
    offset: int = 0
    size: int | None = None


class FileSource(ImageSource):
    """Images inside of files, sorted by class and name. Files are opened for each read alone, so that
    threads and processes may share a source."""

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
        with open(image.path, "rb") as file:
            file.seek(image.offset)
            return Image.open(io.BytesIO(file.read(image.size)))


def open_images(spec: str | os.PathLike[str]) -> ImageSource:
    """Opens images with classes; nothing is unpacked and no image is read yet.

    Args:
      spec: One of
        - a folder with a folder of images for each class;
        - a tar file, several separated by commas, or a folder of them: images in the folder of their
          class, or in an inner tar named after it as in ILSVRC2012_img_train.tar, or several tars, each
          named after its class;
        - 'tfds:NAME' or 'tfds:NAME:SPLIT' for a prepared dataset of TensorFlow Datasets that has an
          image and a label; the split is 'train' by default.

    Labels count the sorted classes, or are those of the TensorFlow dataset.

    Raises:
      ValueError: If there is no such thing, it holds no images or some of them twice, an image has no
        class, or a name is not UTF-8.
    """
    spec = os.fspath(spec)
    if spec.startswith("tfds:"):
        from ._tfds import TfdsSource

        # A version, such as mnist:3.0.1, belongs to the name.
        name, split = re.fullmatch(r"tfds:([^:]*(?::\d[\d.*]*)?)(?::(.*))?", spec).groups()
        return TfdsSource(name, split or "train")
    root = local_path(spec)
    tars = sorted(root.glob("*.tar")) if root.is_dir() else []
    if root.is_dir() and not tars:
        return _checked(FileSource("folder", _walk(root)), spec)
    from ._tars import images_of_tars

    folders = _folders(root) if tars else []
    if folders:
        raise ValueError(
            f"{root} holds tar files, such as {tars[0].name}, and folders, such as {folders[0]}, so it is "
            "not clear which are meant; give the tar files, separated by commas, or move them elsewhere."
        )
    paths = tars or [local_path(part) for part in spec.split(",")]
    _check_tars(paths)
    return _checked(FileSource("tar", images_of_tars(paths)), spec)


def is_image(name: str) -> bool:
    """Whether a file's name is that of an image that is shown; what begins with a dot is hidden."""
    path = pathlib.PurePosixPath(name)
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def refuse_without_class(names: Sequence[str], where: str) -> None:
    """Raises ValueError if there are names: of images outside of a class."""
    if names:
        raise ValueError(
            f"{len(names)} images in {where}, such as {names[0]}, are in no folder, so their class is not "
            "known; put the images of each class into a folder named after it."
        )


def _folders(root: pathlib.Path) -> list[str]:
    return sorted(child.name for child in root.iterdir() if child.is_dir() and child.name[0] != ".")


def _check_tars(paths: Sequence[pathlib.Path]) -> None:
    missing = [path for path in paths if not path.is_file()]
    if missing:
        raise ValueError(
            f"There is no folder or file {missing[0]}; give a folder with one folder for each class, tar "
            "files separated by commas, or tfds:NAME:SPLIT."
        )
    others = [path for path in paths if path.suffix != ".tar"]
    if others:
        raise ValueError(
            f"{others[0]} does not end in .tar; uncompress an archive such as .tar.gz, and put images into a "
            "folder with one folder for each class."
        )
    seen = set()
    for path in paths:
        if path.resolve() in seen:
            raise ValueError(f"The tar file {path} is given twice; give it once.")
        seen.add(path.resolve())


def _walk(root: pathlib.Path) -> list[FileImage]:
    images, stray = [], []
    classes, seen = set(_folders(root)), {}
    for folder, inner, files in os.walk(root, followlinks=True):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        first = seen.setdefault(os.path.realpath(folder), folder)
        if first != folder:
            raise ValueError(
                f"{first} and {folder} are one folder, whose images would come twice; remove the link."
            )
        parts = pathlib.Path(folder).relative_to(root).parts
        found = [file for file in files if is_image(file)]
        if not parts:
            stray = sorted(found)
        else:
            images += [
                FileImage(parts[0], "/".join((*parts, file)), os.path.join(folder, file)) for file in found
            ]
    refuse_without_class(stray, str(root))
    empty = sorted(classes - {image.class_folder for image in images})
    if images and empty:
        raise ValueError(
            f"The folder {empty[0]} in {root} holds no images, but labels count the folders; add its images, "
            "or remove it."
        )
    return images


def _checked(source: FileSource, spec: str) -> FileSource:
    if not len(source):
        raise ValueError(
            f"{spec} holds no images; it needs files that end in {', '.join(SUFFIXES)}, in folders named "
            "after their classes."
        )
    bad = [name for name in map(source.name, range(len(source))) if re.search("[\ud800-\udfff]", name)]
    if bad:
        raise ValueError(f"The name {bad[0]!r} in {spec} is not UTF-8; rename it, for instance with convmv.")
    return source
