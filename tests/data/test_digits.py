"""The digits equal scikit-learn's, scaled to [-1, 1] with the documented levels."""

import sys

import numpy as np
import pytest

from gmflow_jax import data


def test_all_digits_are_loaded():
    digits = data.digits()
    assert digits.images.shape == (1797, 8, 8, 1) and digits.images.dtype == np.float32
    assert digits.labels.shape == (1797,) and digits.labels.dtype == np.int32
    assert digits.labels[:10].tolist() == list(range(10))  # the file starts 0, 1, ..., 9
    assert digits.class_names[3] == "three" and len(digits.class_names) == 10


def test_digits_have_17_levels_from_minus_one_to_one():
    levels = np.unique(data.digits().images)
    np.testing.assert_array_equal(levels, np.linspace(-1, 1, 17, dtype=np.float32))


def test_unit_range_inverts_the_scaling_and_clips():
    images = data.digits().images
    sixteenths = data.to_unit_range(images) * 16
    np.testing.assert_array_equal(sixteenths, np.round(sixteenths))
    assert data.to_unit_range([-3.0, -1.0, 0.0, 1.0, 1.5]).tolist() == [0, 0, 0.5, 1, 1]


def test_missing_scikit_learn_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"pip install scikit-learn"):
        data.digits()
