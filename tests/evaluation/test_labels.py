"""The labels of an evaluation against the authors' 50,000 labels."""

from pathlib import Path

import numpy as np
import pytest

from gmflow_jax.evaluation import evaluation_labels

GOLDEN = Path(__file__).parents[1] / "golden" / "imagenet" / "gmflow_eval_labels.npz"


def test_random_labels_equal_the_authors():
    np.testing.assert_array_equal(evaluation_labels(50_000, 1000), np.load(GOLDEN)["labels"])


def test_balanced_labels_contain_every_class_equally_often():
    labels = evaluation_labels(35, 10, "balanced")
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(np.bincount(labels), [4] * 5 + [3] * 5)


def test_a_label_does_not_depend_on_the_number_of_labels():
    for rule in ("random", "balanced"):
        np.testing.assert_array_equal(evaluation_labels(9, 7, rule), evaluation_labels(20, 7, rule)[:9])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [((0, 10), "at least 1"), ((5, 0), "at least 1"), ((5, 5, "magic"), "no rule 'magic'")],
)
def test_impossible_options_are_refused(arguments, said):
    with pytest.raises(ValueError, match=said):
        evaluation_labels(*arguments)
