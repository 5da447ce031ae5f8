"""Figures can be opened, have the expected size and content, and are never left half-written."""

import numpy as np
import pytest
from PIL import Image

from experiments.common import figures


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image)


def test_image_grid_places_every_image(tmp_path):
    path = tmp_path / "made" / "grid.png"
    values = np.array([0, 0.25, 0.5, 0.75, 1], np.float32)
    figures.image_grid(path, np.ones((5, 8, 8, 1)) * values[:, None, None, None], num_columns=3)
    picture = pixels(path)
    assert picture.shape == (2 * 66 + 2, 3 * 66 + 2)  # 8 x 8 enlarged to 64 x 64, gaps of 2
    centres = picture[34::66, 34::66].ravel()
    np.testing.assert_array_equal(centres, [0, 64, 128, 191, 255, 255])


def test_image_grid_keeps_colours_of_large_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (4, 70, 80, 3)).astype(np.uint8)
    figures.image_grid(tmp_path / "grid.png", images / 255)
    picture = pixels(tmp_path / "grid.png")
    np.testing.assert_array_equal(picture[4:74, 88:168], images[1])
    np.testing.assert_array_equal(picture[78:148, 4:84], images[2])


def test_digit_grid_draws_each_row(tmp_path):
    path = tmp_path / "digits.png"
    rows = [("Real", np.zeros((10, 8, 8))), (("GM-ODE 2", "1"), np.ones((10, 8, 8, 1)))]
    figures.digit_grid(path, rows)
    picture = pixels(path)
    ink = (picture == 0).all(-1)  # ones are drawn as ink on paper; the labels are never pure black
    assert ink.sum() == 10 * 40 * 40
    assert path.stat().st_size < 20_000
    figures.digit_grid(path, [*rows, (("GM-ODE 2", "2"), np.ones((10, 8, 8)))])
    assert pixels(path).shape[0] == picture.shape[0] + 44  # the same solver: no extra space


def test_histogram_grid_is_small_and_legible(tmp_path):
    path = tmp_path / "board.png"
    points = np.random.default_rng(0).uniform(-5, 5, (20_000, 2))
    table = [[points] * 5, [points, *[None] * 4]]
    captions = [[(0.9, 0.1)] * 5, [(1.0, 0.0), *[None] * 4]]
    figures.histogram_grid(path, ["GM-ODE 2", "Data"], [1, 2, 4, 8, 16], table, captions, "a note")
    picture = pixels(path)
    assert 900 < picture.shape[1] < 1400
    assert path.stat().st_size < 300_000
    with Image.open(path) as image:  # an empty place stays paper
        assert image.convert("RGB").getpixel((picture.shape[1] - 100, 400)) == (255, 255, 255)


def test_a_failed_write_leaves_the_old_picture_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "grid.png"
    figures.image_grid(path, np.zeros((1, 8, 8, 1)))
    before = path.read_bytes()

    def half_save(self, file, **_):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", half_save)
    with pytest.raises(OSError, match="disk full"):
        figures.image_grid(path, np.ones((1, 8, 8, 1)))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["grid.png"]


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 8, 8, 4)), "decode latents"),
        (np.zeros((0, 8, 8, 1)), "N >= 1"),
        (np.full((2, 8, 8, 1), -1.0), "to_unit_range"),
        (np.full((2, 8, 8, 1), np.nan), r"\[0, 1\]"),
    ],
)
def test_bad_images_are_refused(tmp_path, images, message):
    with pytest.raises(ValueError, match=message):
        figures.image_grid(tmp_path / "grid.png", images)


def test_tables_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "x.png"
    with pytest.raises(ValueError, match="at least 1"):
        figures.image_grid(path, np.zeros((2, 8, 8, 1)), num_columns=0)
    with pytest.raises(ValueError, match="one image per column"):
        figures.digit_grid(path, [("Real", np.zeros((9, 8, 8)))])
    with pytest.raises(ValueError, match="at least one"):
        figures.digit_grid(path, [])
    with pytest.raises(ValueError, match="one entry per place"):
        figures.histogram_grid(path, ["a"], [1, 2], [[None]], [[None, None]])
    assert not path.exists()
