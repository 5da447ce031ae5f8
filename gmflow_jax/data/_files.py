"""Listings of folders, and JSON files whose structure is checked."""

import dataclasses
import json
import pathlib
import typing
from collections.abc import Mapping
from typing import Any, BinaryIO

from gmflow_jax._files import is_address, naming, read_bytes, write_bytes

_BLOCK = 2**24  # bytes; a tar like ImageNet's was scanned 9 times as fast as with fsspec's default
_JSON_TYPES = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}


def children(folder: Any) -> dict[str, bool]:
    """List a folder.

    Returns:
      By name, whether the child is a folder; nothing if there is no such folder.

    Raises:
      OSError: if the folder, or its bucket, cannot be read.
    """
    if is_address(folder):
        return {name: info["type"] == "directory" for name, info in _listing(folder).items()}
    return {child.name: child.is_dir() for child in folder.iterdir()} if folder.is_dir() else {}


def file_sizes(folder: Any) -> dict[str, int]:
    """Return the size of each file in a folder, by name; a bucket answers with one listing.

    Raises:
      OSError: if the folder, or its bucket, cannot be read.
    """
    if is_address(folder):
        return {name: info["size"] for name, info in _listing(folder).items() if info["type"] == "file"}
    if not folder.is_dir():
        return {}
    return {child.name: child.stat().st_size for child in folder.iterdir() if child.is_file()}


def checksums(folder: Any) -> dict[str, str]:
    """Return the checksum of each file at an address by name, as far as the bucket lists them."""
    names = ("crc32c", "md5Hash", "content_md5", "ETag", "etag")  # of Google, of Azure, of S3
    return {
        file: next((str(info[name]) for name in names if info.get(name)), "")
        for file, info in _listing(folder).items()
    }


def files_below(folder: Any) -> list[str]:
    """Return the files below an address, also in subfolders, by their paths relative to it.

    Raises:
      OSError: if the bucket cannot be read.
    """
    prefix = folder.path.rstrip("/") + "/"
    with naming(folder):
        found = folder.fs.find(folder.path)
    names = [path.removeprefix(prefix) for path in found if path.startswith(prefix)]
    return [name for name in names if name and name[-1] != "/"]  # an empty folder may have a mark


def open_to_scan(path: Any) -> BinaryIO:
    """Open a file to read parts of it in order, which a bucket answers in large blocks."""
    if is_address(path):
        return path.open("rb", block_size=_BLOCK, cache_type="readahead")
    return path.open("rb")


def _listing(folder: Any) -> dict[str, dict[str, Any]]:
    """Return what fsspec says about each child of an address, by name."""
    with naming(folder):
        try:
            found = folder.fs.ls(folder.path, detail=True)
        except FileNotFoundError:
            folder.fs.find(folder.path)  # raises if there is no bucket
            return {}
    paths = {info["name"].rstrip("/"): info for info in found}
    paths.pop(folder.path.rstrip("/"), None)  # the mark of a folder, or the file itself
    return {path.rpartition("/")[2]: info for path, info in paths.items()}


def write_json(path: pathlib.Path, content: Any, process_index: int = 0) -> None:
    """Write a JSON file, which appears under its name only when it is complete.

    Args:
      path: the file.
      content: values that can be written as JSON.
      process_index: number of this process, see `write_whole`.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_bytes(path, text.encode(), process_index)


def read_json(path: pathlib.Path, kind: Any, advice: str) -> Any:
    """Read a JSON file and check its structure.

    Args:
      path: the file.
      kind: the expected type, see `typed`.
      advice: what to do if the file is damaged; the end of the error message.

    Returns:
      The content as `kind`.

    Raises:
      ValueError: if the file is no JSON or its content is not of that type.
    """
    try:
        return typed(kind, json.loads(read_bytes(path).decode()))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); {advice}.") from error


def typed(kind: Any, value: Any, name: str = "it") -> Any:
    """Convert parsed JSON to a type, and check it.

    Args:
      kind: bool, a number type, str, Any, or a tuple, Mapping or dataclass of these.
      value: the parsed JSON.
      name: name of the value in an error message.

    Returns:
      The value as `kind`: lists become tuples, and mappings become dataclasses, with their defaults.

    Raises:
      TypeError: if a value has another type; the message has the field's name.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any or type(value) in _JSON_TYPES.get(kind, ()):
        return value
    if isinstance(kind, type) and dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        fields = dataclasses.fields(kind)
        defaults = {f.name: f.default for f in fields if f.default is not dataclasses.MISSING}
        found = defaults | dict(value)
        return kind(**{field.name: typed(field.type, found.get(field.name), field.name) for field in fields})
    if origin is Mapping and isinstance(value, Mapping):
        return {key: typed(arguments[1], item, name) for key, item in value.items()}
    if origin is tuple and isinstance(value, list | tuple):
        kinds = arguments[:1] * len(value) if arguments[-1] is ... else arguments
        if len(kinds) == len(value):
            return tuple(typed(*pair, name) for pair in zip(kinds, value, strict=True))
    raise TypeError(f"{name} is {value!r:.60}")
