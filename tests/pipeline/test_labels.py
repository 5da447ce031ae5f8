"""Class ids from ids and words."""

import numpy as np
import pytest

from gmflow_jax.pipeline import label_ids


@pytest.mark.parametrize(
    ("label", "expected"),
    [
        (4, 4), (np.int64(9), 9), ("7", 7), (" 03 ", 3), ("jay", 0), ("Jay ", 0), ("ara ara", 9),
        ("MACAW", 9), ("Grus grus", 2), ("crane, lifting machine", 3),
    ],
)  # fmt: skip
def test_labels_from_ids_and_words(bundle, label, expected):
    assert label_ids([label], bundle.id2label, 10) == [expected]


@pytest.mark.parametrize(
    ("label", "said"),
    [
        (10, "10 is out of range; ids are from 0 to 9"),
        (-1, "-1 is out of range"),
        ("10", "10 is out of range"),
        ("crane", "several classes .2: crane, Grus grus; 3: crane, lifting machine.; give an id"),
        ("a photo of a jay", "takes no text prompts.*such as jay .0."),
        ("magpy", "such as magpie .1."),
        ("", "no class ''"),
        (1.0, "neither an id nor a name"),
        (True, "neither an id nor a name"),
    ],
)
def test_unknown_classes_are_refused(bundle, label, said):
    with pytest.raises(ValueError, match=said):
        label_ids(["jay", label], bundle.id2label, 10)


def test_without_names_only_ids_are_known():
    assert label_ids([3, "4"], {}, 10) == [3, 4]
    with pytest.raises(ValueError, match="no class names; give ids from 0 to 9"):
        label_ids(["jay"], {}, 10)


def test_a_word_of_a_class_that_the_network_lacks_is_refused(bundle):
    assert label_ids(np.array([1, 2]), {}, 3) == [1, 2]
    with pytest.raises(ValueError, match="The label 9 is out of range; ids are from 0 to 8"):
        label_ids(["macaw"], bundle.id2label, 9)


def test_a_network_without_classes_takes_the_label_0():
    assert label_ids([0, "0"], {}, 0) == [0, 0]
    with pytest.raises(ValueError, match="label is 1, but this network has no classes; give 0"):
        label_ids([1], {}, 0)


@pytest.mark.parametrize("labels", ["jay", 3, None])
def test_labels_are_a_list(bundle, labels):
    with pytest.raises(ValueError, match="give a list"):
        label_ids(labels, bundle.id2label, 10)
