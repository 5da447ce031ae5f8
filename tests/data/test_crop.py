"""The centre crop equals ADM's, computed by Pillow, bit for bit."""

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_image

from gmflow_jax import data

FOLDER = Path(__file__).parents[1] / "golden" / "imagenet"
CASES = json.loads((FOLDER / "expected.json").read_text())["cases"]


def picture(name):
    """Return a photograph, or the picture by the formula in the README of the golden data."""
    if name.endswith(".jpg"):
        return load_sample_image(name)
    height, width, seed = map(int, re.fullmatch(r"synth_(\d+)x(\d+)_seed(\d+)", name).groups())
    y, x, c = np.ogrid[:height, :width, :3]
    return ((x * (7 + 3 * c) + y * (11 - 2 * c) + x * y // (37 + 5 * c) + 31 * seed) % 256).astype(np.uint8)


@pytest.mark.parametrize("case", CASES)
def test_crops_of_colour_pictures(case):
    name, size = case.split("@")
    pixels = picture(name)
    assert hashlib.sha256(pixels.tobytes()).hexdigest() == CASES[case]["input_sha256"]
    crop = data.center_crop(Image.fromarray(pixels), int(size))
    assert crop.shape == (int(size), int(size), 3) and crop.dtype == np.uint8
    assert hashlib.sha256(crop.tobytes()).hexdigest() == CASES[case]["output_sha256"]


@pytest.mark.parametrize(("name", "mode"), [("gray", "L"), ("cmyk", "CMYK")])
def test_colours_are_converted_before_they_are_averaged(name, mode):
    arrays = np.load(FOLDER / "crops.npz")
    image = Image.frombytes(mode, (200, 150), arrays[f"{name}_150x200_in"].tobytes())
    np.testing.assert_array_equal(data.center_crop(image, 64), arrays[f"{name}@64_convertRGB"])


def test_small_pictures_are_enlarged_and_transparency_is_dropped():
    image = Image.new("RGBA", (5, 3), (10, 200, 30, 0))
    np.testing.assert_array_equal(data.center_crop(image, 8), np.full((8, 8, 3), [10, 200, 30]))


def test_images_without_pixels_are_refused():
    with pytest.raises(ValueError, match="positive size"):
        data.center_crop(Image.new("RGB", (4, 4)), 0)
