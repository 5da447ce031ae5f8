"""Local paths, and JSON files whose structure is checked."""

import dataclasses
import json
import os
import pathlib
import re
import typing
from collections.abc import Mapping
from typing import Any

from gmflow_jax._files import write_whole

_JSON_TYPES = {bool: (bool,), int: (int,), float: (int, float), str: (str,)}


def local_path(path: str | os.PathLike[str]) -> pathlib.Path:
    """Return the path, after a check that it is no address such as gs://bucket/folder.

    Raises:
      ValueError: if it is an address.
    """
    if re.match(r"[a-zA-Z]\w+:/", os.fspath(path)):  # pathlib turns // into /
        raise ValueError(
            f"{path} is an address, but files are opened by their path; mount the bucket, for instance with "
            "gcsfuse, and give the path where it is mounted."
        )
    return pathlib.Path(path)


def write_json(path: pathlib.Path, content: Any, process_index: int = 0) -> None:
    """Write a JSON file, which appears under its name only when it is complete.

    Args:
      path: the file.
      content: values that can be written as JSON.
      process_index: number of this process, see `write_whole`.
    """
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), process_index)


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
        return typed(kind, json.loads(path.read_text(encoding="utf-8")))
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
