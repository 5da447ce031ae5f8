"""The centre crop equals ADM's, computed by Pillow, bit for bit."""

import hashlib
import io
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
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


GREY = np.array([[0, 100, 128, 129], [257, 30000, 65406, 65407], [65535, 4096, 255, 1000], [5, 6, 7, 8]])


def encoded(image, format, **options):
    """Return the image as a file of this format holds it."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return Image.open(file)


@pytest.mark.parametrize("format", ["PNG", "TIFF", "PPM", "JPEG2000", None])
def test_grey_of_16_bits_is_scaled(format):
    """Files of each format, and I;16B and I, in which Pillow holds some of them."""
    grey = Image.fromarray(GREY.astype(np.uint16))
    if format is None:
        big_endian = Image.frombytes("I;16B", grey.size, GREY.astype(">u2").tobytes())
        images = [big_endian, Image.fromarray(GREY.astype(np.int32))]
    else:
        images = [encoded(grey, format)]
    for image in images:
        crop = data.center_crop(image, 4)
        np.testing.assert_array_equal(crop, np.repeat(np.round(GREY / 257)[..., None], 3, -1))


def test_dark_pictures_of_16_bits_stay_dark():
    dark = encoded(Image.fromarray((GREY % 256).astype(np.uint16)), "PPM")
    assert dark.mode == "I" and data.center_crop(dark, 4).max() == 1


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_integers_of_8_bits_and_floats_keep_their_values(dtype):
    values = (GREY % 256).astype(np.uint8)
    scale = 255 if dtype == np.float32 else 1
    image = encoded(Image.fromarray((values / scale).astype(dtype)), "TIFF")
    assert image.mode in ("I", "F")
    np.testing.assert_array_equal(data.center_crop(image, 4)[..., 1], values)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1.01, -0.1, np.int32(-1), np.int32(65536)])
def test_values_of_unknown_range_are_listed_as_broken(bad, tmp_path):
    (tmp_path / "n01").mkdir()
    values = np.zeros((4, 4), np.asarray(bad, np.float32 if isinstance(bad, float) else None).dtype)
    values[1, 2] = bad
    Image.fromarray(values).save(tmp_path / "n01" / "a.tif")
    with pytest.raises(ValueError, match=r"n01/a\.tif is broken \(The grey values .* to .*; convert"):
        list(data.read_images(data.open_images(tmp_path), 4))


def test_grey_of_16_bits_whose_zero_is_white_is_inverted():
    file = io.BytesIO()
    Image.fromarray(GREY.astype(np.uint16)).save(file, "TIFF")
    black_is_zero = struct.pack("<HHIH", 262, 3, 1, 1)
    assert file.getvalue().count(black_is_zero) == 1
    inverted = file.getvalue().replace(black_is_zero, struct.pack("<HHIH", 262, 3, 1, 0))
    crop = data.center_crop(Image.open(io.BytesIO(inverted)), 4)
    np.testing.assert_array_equal(crop[..., 0], 255 - np.round(GREY / 257))


@pytest.mark.parametrize("mode", ["1", "P", "PA", "LA", "RGBA", "HSV", "YCbCr"])
def test_other_modes_show_their_colours(mode):
    """Black at the left and white at the right, also where it is transparent."""
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:, 2:, :3], pixels[..., 3] = 255, 255
    image = Image.fromarray(pixels)
    image = image.convert({"PA": "P", "HSV": "RGB", "YCbCr": "RGB"}.get(mode, "RGBA")).convert(mode)
    crop = data.center_crop(image, 4)
    np.testing.assert_array_equal(crop, pixels[..., :3])


def test_of_an_animation_the_first_frame_is_read():
    frames = [Image.new("RGB", (4, 4), color) for color in ((255, 0, 0), (0, 0, 255))]
    image = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert image.n_frames == 2
    np.testing.assert_array_equal(data.center_crop(image, 4)[0, 0], [255, 0, 0])


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_pictures_are_turned_upright_only_if_asked(format, orientation):
    upright = Image.new("RGB", (16, 16))
    upright.paste((255, 255, 255), (0, 0, 16, 4))  # the sky
    stored = upright.rotate({1: 0, 3: 180, 6: 90, 8: 270}[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = encoded(stored, format, exif=exif, **({"lossless": True} if format == "WEBP" else {}))
    turned = data.center_crop(image, 16, exif_orientation=True)
    np.testing.assert_allclose(turned, np.asarray(upright), atol=20)  # of JPEG
    as_pillow_reads_it = upright if format == "TIFF" else stored
    np.testing.assert_allclose(data.center_crop(image, 16), np.asarray(as_pillow_reads_it), atol=20)


def test_every_orientation_is_that_of_pillow():
    pixels = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        image = encoded(Image.fromarray(pixels), "PNG", exif=exif)
        expected = data.center_crop(ImageOps.exif_transpose(image), 3)
        np.testing.assert_array_equal(data.center_crop(image, 3, exif_orientation=True), expected)
