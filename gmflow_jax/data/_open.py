"""Opening images by a folder, tar files, or a dataset's name."""

import os
import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gmflow_jax._files import is_address, to_path
from gmflow_jax.data._files import children, files_below
from gmflow_jax.data._sources import (
    SUFFIXES,
    FileImage,
    FileSource,
    ImageSource,
    check_none_without_class,
    is_hidden,
    is_image,
    warn_of_others,
)
from gmflow_jax.data._tars import images_of_tars
from gmflow_jax.data._tfds import TfdsSource

_NUM_THREADS = 16  # classes listed at a time; a bucket answers slowly, but many at a time


def open_images(spec: str | os.PathLike[str], need_classes: bool = True) -> ImageSource:
    """Open images with classes; nothing is unpacked, and no image is read yet.

    All but the datasets of TensorFlow may be in a bucket. A tar file there is read once to find its images,
    each of which is then read by its bytes.

    Labels number the classes in sorted order; those of a TensorFlow dataset are kept. Files and folders
    that are hidden or that systems add, such as @eaDir and __MACOSX, are ignored. A warning counts other
    files that are not read.

    Args:
      spec: one of
        - a folder with a folder of images for each class;
        - a tar file, several separated by commas, or a folder of them: images in the folder of their
          class, or in an inner tar named after it as in ILSVRC2012_img_train.tar, or several tars, each
          named after its class;
        - 'tfds:NAME' or 'tfds:NAME:SPLIT' for a prepared dataset of TensorFlow Datasets that has an
          image and a label; the split is 'train' by default.
      need_classes: whether every image of a folder must be in a class folder. If False, images beside the
        class folders are read too, with the class ''.

    Returns:
      The images.

    Raises:
      ValueError: if `spec` does not exist, holds no images or some of them twice, an image has no class,
        or a name is not UTF-8.
      OSError: if a bucket cannot be used.
    """
    spec = str(spec)
    if spec.startswith("tfds:"):
        return _open_tfds(spec)
    parts = spec.split(",")
    paths = [to_path(part) for part in parts]
    if not any(map(is_address, parts[1:])):  # a comma may belong to the name of a folder
        root = to_path(spec)
        inside = {name: is_folder for name, is_folder in children(root).items() if not is_hidden(name)}
        folders = sorted(name for name, is_folder in inside.items() if is_folder)
        tars = sorted(name for name in inside if name.endswith(".tar"))
        if root.is_dir() and not tars:
            return _checked(FileSource("folder", _walk(root, inside, need_classes)), spec)
        if tars and folders:
            raise ValueError(
                f"{root} holds tar files, such as {tars[0]}, and folders, such as {folders[0]}, so it is "
                "not clear which are meant; give the tar files, separated by commas, or move them elsewhere."
            )
        paths = [root / name for name in tars] or paths
    _check_tars(paths)
    return _checked(FileSource("tar", images_of_tars(paths)), spec)


def _open_tfds(spec: str) -> TfdsSource:
    # A version, such as mnist:3.0.1, belongs to the name.
    match = re.fullmatch(r"tfds:([^:]*(?::\d[\d.*]*)?)(?::(.*))?", spec)
    if match is None:
        raise ValueError(f"{spec!r} is no name of a dataset; give tfds:NAME or tfds:NAME:SPLIT.")
    name, split = match.groups()
    return TfdsSource(name, split or "train")


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


def _walk(root: pathlib.Path, inside: Mapping[str, bool], need_classes: bool) -> list[FileImage]:
    """List the images of a folder; `inside` says of each name in it whether it is a folder."""
    images, stray, others = [], [], []
    start = os.path.join(str(root), "")
    for parts, files in _files_by_folder(root, inside):
        found = [file for file in files if is_image(file)]
        if not parts:
            stray = found
        images += [
            FileImage(parts[0], name, start + name)
            for name in ("/".join((*parts, file)) for file in found) if parts
        ]
        if parts or not need_classes:
            others += ["/".join((*parts, file)) for file in files if not is_image(file)]
    warn_of_others(others, str(root))
    if not need_classes:
        return images + [FileImage("", file, start + file) for file in stray]
    check_none_without_class(stray, str(root))
    with_images = {image.class_folder for image in images}
    empty = sorted(name for name, is_folder in inside.items() if is_folder and name not in with_images)
    if images and empty:
        raise ValueError(
            f"The folder {empty[0]} in {root} holds no images, but labels count the folders; add its images, "
            "or remove it."
        )
    return images


def _files_by_folder(
    root: Any, inside: Mapping[str, bool]
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Yield the parts of each folder's path below the root, and its files; both sorted, none hidden."""
    if is_address(root):
        yield (), sorted(name for name, is_folder in inside.items() if not is_folder)
        classes = sorted(name for name, is_folder in inside.items() if is_folder)
        with ThreadPoolExecutor(_NUM_THREADS) as pool:
            for name, found in zip(
                classes, pool.map(lambda name: files_below(root / name), classes), strict=True
            ):
                yield from _grouped(name, found)
        return
    seen: dict[str, str] = {}
    for folder, inner, files in os.walk(root, followlinks=True):
        inner[:] = sorted(name for name in inner if not is_hidden(name))
        first = seen.setdefault(os.path.realpath(folder), folder)
        if first != folder:
            raise ValueError(
                f"{first} and {folder} are the same folder, so its images would come twice; remove the link."
            )
        parts = pathlib.Path(folder).relative_to(root).parts
        yield parts, sorted(name for name in files if not is_hidden(name))


def _grouped(class_folder: str, names: Sequence[str]) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """Yield as `_files_by_folder` the files below the folder of a class in a bucket."""
    folders: dict[tuple[str, ...], list[str]] = {}
    for name in names:
        *parts, file = name.split("/")
        if {"", ".", ".."} & {*parts, file}:
            raise ValueError(f"{class_folder}/{name} in the bucket is no path of a file; rename that object.")
        if not any(map(is_hidden, (*parts, file))):
            folders.setdefault((class_folder, *parts), []).append(file)
    yield from ((parts, sorted(folders[parts])) for parts in sorted(folders))


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
