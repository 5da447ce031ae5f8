"""Class ids from what people write: ids, or words of a class."""

import difflib
import numbers
from collections.abc import Mapping, Sequence


def label_ids(labels: Sequence[int | str], id2label: Mapping[int, str], num_classes: int) -> list[int]:
    """The class id of each label.

    Args:
      labels: A list or array: ids, as numbers or digits, or words: one of a class's comma-separated
        synonyms or all of them, in any case of letters.
      id2label: The words of each class; empty if they are not known.
      num_classes: Ids are below this.

    Raises:
      ValueError: If an id is out of range, or a word belongs to no class or to several.
    """
    if hasattr(labels, "tolist"):
        labels = labels.tolist()
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise ValueError(f"labels is {labels!r}; give a list, such as [17, 'magpie'].")
    return [_label_id(label, id2label, num_classes) for label in labels]


def _label_id(label: int | str, id2label: Mapping[int, str], num_classes: int) -> int:
    if isinstance(label, str) and label.strip().isdecimal():
        label = int(label)
    if isinstance(label, numbers.Integral) and not isinstance(label, bool):
        return _in_range(int(label), num_classes)
    if not isinstance(label, str):
        raise ValueError(f"The label {label!r} is neither an id nor a word; give one of them.")
    if not id2label:
        raise ValueError(
            f"The label {label!r} cannot be looked up, for this checkpoint names no classes; give ids from "
            f"0 to {num_classes - 1}."
        )
    found = [i for i, words in id2label.items() if label.strip().casefold() in _names(words)]
    if len(found) == 1:
        return _in_range(found[0], num_classes)
    if found:
        candidates = "; ".join(f"{i}: {id2label[i]}" for i in found)
        raise ValueError(f"The word {label!r} belongs to several classes ({candidates}); give an id.")
    raise ValueError(
        f"There is no class {label!r}. This network draws one of {num_classes} classes, not a described "
        f"scene; give an id or a word of a class{_similar(label, id2label)}."
    )


def _in_range(label: int, num_classes: int) -> int:
    if not 0 <= label < num_classes:
        raise ValueError(f"The label {label} is out of range; ids are from 0 to {num_classes - 1}.")
    return label


def _names(words: str) -> list[str]:
    """All that a class may be called: the whole line, and each synonym."""
    return [name.strip().casefold() for name in (words, *words.split(","))]


def _similar(label: str, id2label: Mapping[int, str]) -> str:
    names = {name: i for i, words in id2label.items() for name in _names(words)}
    close = difflib.get_close_matches(label.strip().casefold(), names, n=3)
    # A prompt often holds the word of a class: "a photo of a jay".
    inside = [name for name in names if f" {name} " in f" {label.casefold()} "]
    close = list(dict.fromkeys([*inside[:3], *close]))
    return f", such as {', '.join(f'{name} ({names[name]})' for name in close)}" if close else ""
