"""Features and scores of sets of images, by a small network in place of Inception."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from gmflow_jax.evaluation import (
    IMAGE_METRICS,
    FeatureExtractor,
    ImageFeatures,
    Moments,
    Reference,
    available_metrics,
    brightness,
    check_metrics,
    contrast,
    density_coverage,
    feature_statistics,
    frechet_distance,
    image_features,
    image_scores,
    inception_score,
    kernel_distance,
    precision_recall,
    saturation,
)
from gmflow_jax.interop import load_inception
from tests import inception_weights

OF_STATISTICS = {"fid", "sfid", "saturation", "brightness", "contrast"}


def reference_of(features: ImageFeatures) -> Reference:
    moments = (Moments(part.mean, part.covariance) for part in (features.pool3, features.spatial))
    return Reference(*moments, features.rows, None, {})


def assert_same(found: ImageFeatures, expected: ImageFeatures):
    """Statistics to 1e-12, everything else to the bit."""
    for part in ("pool3", "spatial"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        assert ours.num_samples == theirs.num_samples
        np.testing.assert_allclose(ours.mean, theirs.mean, rtol=1e-12)
        np.testing.assert_allclose(ours.covariance, theirs.covariance, rtol=1e-12, atol=1e-14)
    rest = lambda features: (features.rows, features.logits, features.colours)  # noqa: E731
    jax.tree.map(np.testing.assert_array_equal, rest(found), rest(expected))


@pytest.fixture(scope="module")
def real_images(pictures):
    return pictures(0, 48)


@pytest.fixture(scope="module")
def fake_images(pictures):
    """Pale, and alike: most are near a real one, and few real ones are near them."""
    return pictures(1, 37) // 6 + 100


@pytest.fixture(scope="module")
def real(extractor, real_images):
    return image_features(extractor, [real_images])


@pytest.fixture(scope="module")
def fake(extractor, fake_images):
    return image_features(extractor, [fake_images])


@pytest.fixture(scope="module")
def reference(real):
    return reference_of(real)


@pytest.mark.parametrize("splits", [[1, 2, 6], [20], range(7, 37, 7)])
def test_batches_do_not_matter(extractor, fake_images, fake, splits):
    batches = (batch for batch in np.split(fake_images, splits))  # can be read once
    assert_same(image_features(extractor, batches), fake)


def test_merged_parts_are_all_at_once(extractor, fake_images, fake):
    first, second, third = (image_features(extractor, [part]) for part in np.split(fake_images, [1, 20]))
    assert_same(first.merge(second).merge(third), fake)
    assert_same(first.merge(second.merge(third)), fake)


def test_parts_that_lack_rows_do_not_merge_with_others(extractor, fake_images, fake):
    without = image_features(extractor, [fake_images], keep_rows=False)
    for one, other in ((without, fake), (fake, without)):
        with pytest.raises(ValueError, match="one set has each image's features and the other has not"):
            one.merge(other)


def test_what_is_kept_of_an_image(extractor, fake_images, fake):
    assert fake.rows.shape == (37, 8) and fake.logits.shape == (37, 12)
    assert fake.rows.dtype == fake.logits.dtype == np.float32
    np.testing.assert_array_equal(fake.rows, extractor(fake_images).pool3)
    np.testing.assert_array_equal(fake.logits, extractor(fake_images).logits)
    assert {name: values.dtype for name, values in fake.colours.items()} == {
        "saturation": np.float64, "brightness": np.float64, "contrast": np.float64,
    }  # fmt: skip


def test_without_rows_three_numbers_an_image_are_kept(extractor, fake_images, fake, reference):
    few, all_of_them = (
        image_features(extractor, np.split(images, 2), keep_rows=False)
        for images in (fake_images[:10], fake_images[:36])
    )
    size = lambda features: sum(np.size(leaf) for leaf in jax.tree.leaves(features))  # noqa: E731
    assert size(all_of_them) - size(few) == 3 * 26
    last = image_features(extractor, [fake_images[36:]], keep_rows=False)
    found = image_scores(all_of_them.merge(last), reference)
    assert found.keys() == OF_STATISTICS
    expected = image_scores(fake, reference)
    assert found == pytest.approx({name: expected[name] for name in OF_STATISTICS}, rel=1e-9)


def test_a_pytree_that_can_be_sent(fake, reference):
    for features in (fake, dataclasses.replace(fake, rows=None, logits=None)):
        sent = jax.tree.map(np.asarray, features)
        assert isinstance(sent, ImageFeatures)
        assert_same(sent, features)
        assert image_scores(sent, reference) == image_scores(features, reference)


def test_scores_are_the_metrics_of_the_features(extractor, real_images, fake_images, fake, reference):
    real_features, fake_features = extractor(real_images), extractor(fake_images)
    rows = (real_features.pool3, fake_features.pool3)

    def frechet(part):
        moments = (feature_statistics(getattr(f, part)) for f in (fake_features, real_features))
        return frechet_distance(*next(moments), *next(moments))

    expected = {
        "fid": frechet("pool3"),
        "sfid": frechet("spatial"),
        "inception_score": inception_score(fake_features.logits),
        **dict(zip(("precision", "recall"), precision_recall(*rows), strict=True)),
        **dict(zip(("density", "coverage"), density_coverage(*rows), strict=True)),
        "kid": kernel_distance(*rows),
        "saturation": saturation(fake_images).mean(),
        "brightness": brightness(fake_images).mean(),
        "contrast": contrast(fake_images).mean(),
    }
    found = image_scores(fake, reference)
    assert all(isinstance(score, float) for score in found.values())
    assert found == pytest.approx(expected, rel=1e-9)
    assert abs(found["fid"] / found["sfid"] - 1) > 0.1  # else the order of features would not show


def test_precision_is_of_fake_images_and_recall_of_real_ones(extractor, real_images, real, reference):
    """A few real images that are alike, taken for fakes, are all real, and few real ones are near them."""
    order = np.argsort(np.linalg.norm(real.rows - real.rows[0], axis=1))
    fake = image_features(extractor, [real_images[order[:6]]])
    found = image_scores(fake, reference, ["precision_recall"])
    assert found["precision"] == 1
    assert found["recall"] < 0.5


def test_images_against_themselves(real, reference):
    found = image_scores(real, reference)
    assert found["fid"] < 1e-9 and found["sfid"] < 1e-9
    assert found["precision"] == found["recall"] == found["coverage"] == 1


def test_order_of_images_does_not_matter(extractor, fake_images, fake, reference):
    metrics = [name for name in IMAGE_METRICS if name != "inception_score"]  # its parts are runs of images
    shuffled = np.random.default_rng(2).permutation(fake_images)
    found = image_scores(image_features(extractor, np.array_split(shuffled, 5)), reference, metrics)
    assert found == pytest.approx(image_scores(fake, reference, metrics), rel=1e-9)


def test_fid_grows_with_noise(extractor, real_images, reference):
    noise = np.random.default_rng(3).standard_normal(real_images.shape)
    fids = []
    for level in (0, 10, 30, 90):
        noisy = np.clip(real_images + level * noise, 0, 255).astype(np.uint8)
        fids.append(image_scores(image_features(extractor, [noisy]), reference, ["fid"])["fid"])
    assert fids[0] < 1e-9
    assert all(b > 2 * a for a, b in itertools.pairwise(fids))


def test_progress_wraps_each_slow_pass(fake, reference):
    """Precision and recall take three passes, density and coverage two."""
    passes = []

    def progress(blocks):
        passes.append(len(blocks))
        return blocks

    assert image_scores(fake, reference, progress=progress) == image_scores(fake, reference)
    assert passes == [1] * 5


@pytest.mark.parametrize(
    ("lacking", "metrics"),
    [
        ((), IMAGE_METRICS),
        (("spatial",), ("fid", "inception_score", "precision_recall", "density_coverage", "kid", "colours")),
        (("rows",), ("fid", "sfid", "inception_score", "colours")),
        (("pool3", "spatial", "rows"), ("inception_score", "colours")),
    ],
)
def test_everything_that_the_reference_allows_is_measured(fake, reference, lacking, metrics):
    reference = dataclasses.replace(reference, **dict.fromkeys(lacking))
    assert available_metrics(reference) == metrics
    assert image_scores(fake, reference) == image_scores(fake, reference, metrics)


@pytest.mark.parametrize(
    ("lacking", "metric", "sentence"),
    [
        ("pool3", "fid", "fid cannot be measured, for the reference has no pool3"),
        ("spatial", "sfid", "sfid cannot be measured, for the reference has no spatial"),
        ("rows", "precision_recall", "the reference has no rows. Leave it out"),
        ("rows", "kid", "the reference has no rows"),
    ],
)
def test_what_the_reference_does_not_allow_is_a_sentence(fake, reference, lacking, metric, sentence):
    reference = dataclasses.replace(reference, **{lacking: None})
    with pytest.raises(ValueError, match=sentence):
        image_scores(fake, reference, ["colours", metric])


@pytest.mark.parametrize("metric", ["inception_score", "precision_recall", "density_coverage", "kid"])
def test_what_needs_rows_is_a_sentence_without_them(fake, reference, metric):
    without = dataclasses.replace(fake, rows=None, logits=None)
    with pytest.raises(ValueError, match=f"{metric} cannot be measured, for each image's features were not"):
        image_scores(without, reference, [metric])


@pytest.mark.parametrize("metric", IMAGE_METRICS)
def test_too_few_images_are_a_sentence_before_they_are_drawn(extractor, fake_images, reference, metric):
    least = {"inception_score": 10, "precision_recall": 4, "density_coverage": 6}.get(metric, 2)
    check_metrics([metric], least, reference)
    image_scores(image_features(extractor, [fake_images[:least]]), reference, [metric])
    with pytest.raises(ValueError, match=f"{least - 1} images are too few for {metric}: it takes at least"):
        check_metrics([metric], least - 1)


def test_other_metrics_are_a_sentence(fake, reference):
    with pytest.raises(ValueError, match=r"no metric 'FID'\. Choose of fid, sfid"):
        image_scores(fake, reference, ["fid", "FID"])


def test_wrong_images_are_a_sentence(extractor, fake_images):
    unit = fake_images / 255
    for batches, sentence in (
        ([unit], r"as of images in \[0, 1\]"),
        ([fake_images, 2 * unit - 1], r"as of images in \[-1, 1\]"),
        ([np.where(unit > 0.5, np.nan, unit)], "some values are NaN or infinite"),
        ([fake_images[0]], r"shape \(16, 16, 3\), but \[N, H, W, 3\] is needed"),
        ([fake_images[:0]], "at least one image"),
        ([], "no images to measure"),
    ):
        with pytest.raises(ValueError, match=sentence):
            image_features(extractor, batches)


def test_inception_itself(tmp_path):
    """To 2e-5, as its own tests have it; measured 4e-6."""
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
