"""Conversion of labels, ids or names of classes, to class ids."""

import difflib
import operator
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def label_ids(
    labels: Sequence[int | str] | np.ndarray, id2label: Mapping[int, str], num_classes: int
) -> list[int]:
    """Convert labels to class ids.

    Args:
      labels: a list or array of ids and names. An id is a number or a string of digits. A name is one of
        the comma-separated names of a class, or all of them, in upper or lower case.
      id2label: names of each class by class id; empty if they are not known.
      num_classes: number of classes; a network without classes takes the label 0 only.

    Returns:
      The class id of each label.

    Raises:
      ValueError: if an id is out of range, or a name belongs to no class or to several.

    Example:
      >>> from gmflow_jax import pipeline
      >>> pipeline.label_ids(["magpie", "Jay", 2], {0: "jay", 1: "magpie", 2: "macaw, Ara ara"}, 3)
      [1, 0, 2]
    """
    to_list = getattr(labels, "tolist", None)  # of numpy and JAX arrays
    if to_list is not None:
        labels = to_list()
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise ValueError(f"labels is {labels!r}; give a list of ids or names, such as [17, 'magpie'].")
    return [_label_id(label, id2label, num_classes) for label in labels]


def _label_id(label: int | str, id2label: Mapping[int, str], num_classes: int) -> int:
    if isinstance(label, str) and label.strip().isdecimal():
        return _in_range(int(label), num_classes)
    if not isinstance(label, str):
        return _in_range(_whole(label), num_classes)
    if not id2label:
        raise ValueError(
            f"The label {label!r} cannot be looked up, because this checkpoint has no class names; give ids "
            f"from 0 to {num_classes - 1}."
        )
    found = [i for i, words in id2label.items() if label.strip().casefold() in _names(words)]
    if len(found) == 1:
        return _in_range(found[0], num_classes)
    if found:
        candidates = "; ".join(f"{i}: {id2label[i]}" for i in found)
        raise ValueError(f"The name {label!r} belongs to several classes ({candidates}); give an id.")
    raise ValueError(
        f"There is no class {label!r}. This network draws {num_classes} classes and takes no text prompts; "
        f"give the id or the name of a class{_similar(label, id2label)}."
    )


def _whole(label: Any) -> int:
    """Convert an id, also a scalar of NumPy or JAX, to an int."""
    if not isinstance(label, bool):
        try:
            return operator.index(label)
        except TypeError:
            pass
    raise ValueError(f"The label {label!r} is neither an id nor a name; give one of these.")


def _in_range(label: int, num_classes: int) -> int:
    if not num_classes and label:
        raise ValueError(f"The label is {label}, but this network has no classes; give 0 for each image.")
    if not 0 <= label < max(num_classes, 1):
        raise ValueError(f"The label {label} is out of range; ids are from 0 to {num_classes - 1}.")
    return label


def _names(words: str) -> list[str]:
    """List the names of a class: the whole string and each of its comma-separated parts."""
    return [name.strip().casefold() for name in (words, *words.split(","))]


def _similar(label: str, id2label: Mapping[int, str]) -> str:
    names = {name: i for i, words in id2label.items() for name in _names(words)}
    close = difflib.get_close_matches(label.strip().casefold(), names, n=3)
    # A text prompt may contain the name of a class: "a photo of a jay".
    inside = [name for name in names if f" {name} " in f" {label.casefold()} "]
    close = list(dict.fromkeys([*inside[:3], *close]))
    return f", such as {', '.join(f'{name} ({names[name]})' for name in close)}" if close else ""
