"""Features of sets of images, by a small network in place of Inception."""

import dataclasses

import jax
import numpy as np
import pytest

from gmflow_jax.evaluation import (
    FeatureExtractor,
    ImageFeatures,
    _image_features,
    image_features,
    image_scores,
)
from gmflow_jax.interop import load_inception
from tests import inception_weights

_OF_STATISTICS = {"fid", "sfid", "saturation", "brightness", "contrast"}


def assert_same(found: ImageFeatures, expected: ImageFeatures):
    """Assert that statistics agree within 1e-12 and everything else exactly."""
    for part in ("pool3", "spatial"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert ours.num_samples == theirs.num_samples
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-12)
        np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-12, atol=1e-14)
    rest = lambda features: (features.rows, features.logits, features.colors)  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, rest(found), rest(expected))


@pytest.mark.parametrize("splits", [[1, 2, 6], [20], range(7, 37, 7)])
@pytest.mark.parametrize("chunk", [1, 5, 512])
def test_batches_do_not_matter(extractor, fake_images, fake, splits, chunk, monkeypatch):
    monkeypatch.setattr(_image_features, "_CHUNK", chunk)
    batches = (batch for batch in np.split(fake_images, splits))  # can be read once
    assert_same(image_features(extractor, batches), fake)


def test_merged_parts_equal_all_images_at_once(extractor, fake_images, fake):
    first, second, third = (image_features(extractor, [part]) for part in np.split(fake_images, [1, 20]))
    assert_same(first.merge(second).merge(third), fake)
    assert_same(first.merge(second.merge(third)), fake)


def test_parts_that_lack_rows_do_not_merge_with_others(extractor, fake_images, fake):
    without = image_features(extractor, [fake_images], keep_rows=False)
    for one, other in ((without, fake), (fake, without)):
        with pytest.raises(ValueError, match="one set has each image's features and the other has not"):
            one.merge(other)


def test_contents_of_the_features(extractor, fake_images, fake):
    assert fake.rows.shape == (37, 8) and fake.logits.shape == (37, 12)
    assert fake.rows.dtype == fake.logits.dtype == np.float32
    np.testing.assert_array_equal(fake.rows, extractor(fake_images).pool3)
    np.testing.assert_array_equal(fake.logits, extractor(fake_images).logits)
    assert {name: values.dtype for name, values in fake.colors.items()} == {
        "saturation": np.float64, "brightness": np.float64, "contrast": np.float64,
    }  # fmt: skip


def test_without_rows_three_numbers_per_image_are_kept(extractor, fake_images, fake, reference):
    few, all_of_them = (
        image_features(extractor, np.split(images, 2), keep_rows=False)
        for images in (fake_images[:10], fake_images[:36])
    )
    size = lambda features: sum(np.size(leaf) for leaf in jax.tree.leaves(features))  # noqa: E731
    assert size(all_of_them) - size(few) == 3 * 26
    last = image_features(extractor, [fake_images[36:]], keep_rows=False)
    found = image_scores(all_of_them.merge(last), reference)
    assert found.keys() == _OF_STATISTICS
    expected = image_scores(fake, reference)
    assert found == pytest.approx({name: expected[name] for name in _OF_STATISTICS}, rel=1e-9)


def test_image_features_are_a_pytree_of_arrays(fake, reference):
    for features in (fake, dataclasses.replace(fake, rows=None, logits=None)):
        sent = jax.tree.map(np.asarray, features)
        assert isinstance(sent, ImageFeatures)
        assert_same(sent, features)
        assert image_scores(sent, reference) == image_scores(features, reference)


def test_wrong_images_are_refused(extractor, fake_images):
    unit = fake_images / 255
    for batches, sentence in (
        ([unit], r"look like images in \[0, 1\]"),
        ([fake_images, 2 * unit - 1], r"look like images in \[-1, 1\]"),
        ([np.where(unit > 0.5, np.nan, unit)], "some values are NaN or infinite"),
        ([fake_images[0]], r"shape \(16, 16, 3\), but \[N, H, W, 3\] is needed"),
        ([fake_images[:0]], "at least one image"),
        ([], "no images to measure"),
    ):
        with pytest.raises(ValueError, match=sentence):
            image_features(extractor, batches)


@pytest.mark.slow
def test_features_of_inception_equal_golden(tmp_path):
    """Within 2e-5, as in tests/models/test_inception.py; measured 4e-6."""
    inception_weights.write(tmp_path / "weights.npz")
    network = load_inception(tmp_path / "weights.npz")
    extractor = FeatureExtractor(network, batch_size=1, devices=jax.devices()[:1])
    with np.load(inception_weights.FOLDER / "io.npz") as file:
        images, rows, spatial, logits = (
            file[f"a_64x64/{name}"] for name in ("images", "pool3", "spatial", "logits")
        )
    features = image_features(extractor, np.split(images, 2))
    for found, expected in (
        (features.rows, rows),
        (features.logits, logits),
        (features.pool3.mean, rows.mean(0)),
        (features.spatial.mean, spatial.mean(0)),
    ):
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-5)
