"""Batches of pixels are the centre crops, half of them mirrored."""

import numpy as np
import pytest

from gmflow_jax import data
from gmflow_jax.data._images import ImageBatches


@pytest.fixture(scope="module")
def whole_images(files, tmp_path_factory):
    """The images that are not broken."""
    root = tmp_path_factory.mktemp("whole")
    for name, content in files.items():
        if "truncated" not in name:
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_bytes(content)
    return data.open_images(root)


def test_batches_are_crops_or_their_mirror_images(whole_images):
    batch_fn = ImageBatches(whole_images, 24, batch_size=30, seed=4)
    crops = np.stack([data.center_crop(whole_images.open(i), 24) for i in range(15)])
    mirrored = 0
    for step in range(10):
        batch, indices = batch_fn(step), data.epoch_indices(4, step, 30, 15)
        assert batch["x_0"].shape == (30, 24, 24, 3) and batch["x_0"].dtype == np.float32
        np.testing.assert_array_equal(batch["labels"], whole_images.labels[indices])
        pixels = (batch["x_0"] + 1) * 127.5
        same = np.abs(pixels - crops[indices]).max(axis=(1, 2, 3)) < 1e-4
        flipped = np.abs(pixels - crops[indices][:, :, ::-1]).max(axis=(1, 2, 3)) < 1e-4
        assert (same ^ flipped).all()
        mirrored += flipped.sum()
    assert abs(mirrored - 150) < 5 * np.sqrt(75)  # of 300; 5 standard deviations


@pytest.mark.parametrize("rows", [slice(2, 5), [7, 0]])
def test_row_slices_equal_rows_of_the_whole_batch(whole_images, rows):
    batch_fn = ImageBatches(whole_images, 8, batch_size=8)
    whole, part = batch_fn(1), batch_fn(1, rows)
    for name in whole:
        np.testing.assert_array_equal(part[name], whole[name][rows])


def test_a_broken_image_is_named(source):
    with pytest.raises(ValueError, match=r"n02/truncated\.JPEG is broken .*; repair or remove it"):
        ImageBatches(source, 8, batch_size=16)(0)


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_images_are_read_in_order_for_every_batch_size(whole_images, batch_size):
    batches = list(data.read_images(whole_images, 24, batch_size))
    assert all(len(batch) == batch_size for batch in batches[:-1])
    crops = [data.center_crop(whole_images.open(i), 24) for i in range(len(whole_images))]
    np.testing.assert_array_equal(np.concatenate(batches), np.stack(crops))


def test_reading_names_a_broken_image(source):
    with pytest.raises(ValueError, match=r"n02/truncated\.JPEG is broken"):
        list(data.read_images(source, 8))


def test_images_beside_the_class_folders_are_read_where_no_class_is_needed(whole_images, tmp_path):
    picture = whole_images.open(0).convert("RGB")
    for name in ("b.png", "a.png", "n01/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        picture.save(tmp_path / name)
    found = data.open_images(tmp_path, need_classes=False)
    assert [found.name(i) for i in range(len(found))] == ["a.png", "b.png", "n01/c.png"]
    with pytest.raises(ValueError, match=r"2 images in .*are in no folder"):
        data.open_images(tmp_path)
