"""Statistics of colours against the authors' values and known values."""

from pathlib import Path

import numpy as np
import pytest

from gmflow_jax.evaluation import brightness, contrast, saturation

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics" / "color.npz"
MEASURES = (saturation, brightness, contrast)


@pytest.mark.parametrize("measure", MEASURES)
def test_values_equal_the_authors_definitions(measure):
    golden = np.load(GOLDEN)
    for images in (golden["images"], golden["images"] / 255):
        np.testing.assert_allclose(measure(images), golden[measure.__name__], rtol=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_images_do_not_depend_on_each_other(measure):
    images = np.load(GOLDEN)["images"]
    np.testing.assert_array_equal(measure(images[::-1]), measure(images)[::-1])
    np.testing.assert_allclose(measure(images[:, ::-1]), measure(images), rtol=1e-13)


def test_saturation_of_black_grey_and_a_pure_color():
    images = np.zeros((3, 2, 2, 3), np.uint8)
    images[1] += 100
    images[2, ..., 1] = 7
    np.testing.assert_array_equal(saturation(images), [0, 0, 1])


def test_brightness_of_grey_is_its_value():
    grey = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None, None], (256, 2, 3, 3))
    # The two branches of sRGB's transfer function meet to 1e-7.
    np.testing.assert_allclose(brightness(grey), np.arange(256) / 255, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(contrast(grey), 0, atol=1e-12)


def test_contrast_of_black_and_white():
    images = np.zeros((1, 2, 2, 3), np.uint8)
    images[0, 0] = 255
    np.testing.assert_allclose(contrast(images), np.std([0, 0, 1, 1], ddof=1), rtol=1e-12)
    np.testing.assert_array_equal(contrast(images[:, :1, :1]), [0])  # a single pixel


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("images", [np.zeros((2, 4, 4)), np.zeros((0, 4, 4, 3)), -np.ones((1, 2, 2, 3))])
def test_images_without_three_color_channels_are_refused(measure, images):
    with pytest.raises(ValueError, match="The images have"):
        measure(images)


@pytest.mark.parametrize("measure", [brightness, contrast])
def test_an_unknown_scale_is_refused(measure):
    with pytest.raises(ValueError, match="up to 200 and are float64; give uint8"):
        measure(np.full((1, 2, 2, 3), 200.0))
