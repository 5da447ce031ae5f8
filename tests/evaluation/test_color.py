"""Saturation against the authors' numbers and by hand."""

from pathlib import Path

import numpy as np
import pytest

from gmflow_jax.evaluation import saturation

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics" / "color.npz"


def test_the_authors_numbers():
    golden = np.load(GOLDEN)
    np.testing.assert_allclose(saturation(golden["images"]), golden["saturation"], rtol=1e-12)
    np.testing.assert_allclose(saturation(golden["images"] / 255), golden["saturation"], rtol=1e-12)


def test_black_grey_and_pure_colours():
    images = np.zeros((3, 2, 2, 3), np.uint8)
    images[1] += 100
    images[2, ..., 1] = 7
    np.testing.assert_array_equal(saturation(images), [0, 0, 1])


@pytest.mark.parametrize("images", [np.zeros((2, 4, 4)), np.zeros((0, 4, 4, 3)), -np.ones((1, 2, 2, 3))])
def test_what_has_no_colours_is_refused(images):
    with pytest.raises(ValueError, match="The images have"):
        saturation(images)
