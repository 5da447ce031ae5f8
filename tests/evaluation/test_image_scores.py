"""Scores of sets of images against a reference, by a small network in place of Inception."""

import dataclasses
import itertools

import numpy as np
import pytest

from gmflow_jax.evaluation import (
    IMAGE_METRICS,
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
    """If some similar real images are scored as fakes, precision is 1 and recall is low."""
    order = np.argsort(np.linalg.norm(real.rows - real.rows[0], axis=1))
    fake = image_features(extractor, [real_images[order[:6]]])
    found = image_scores(fake, reference, ["precision_recall"])
    assert found["precision"] == 1
    assert found["recall"] < 0.5


def test_real_images_against_themselves_have_perfect_scores(real, reference):
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
def test_every_metric_that_the_reference_allows_is_measured(fake, reference, lacking, metrics):
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
def test_metrics_that_the_reference_does_not_allow_are_refused(fake, reference, lacking, metric, sentence):
    reference = dataclasses.replace(reference, **{lacking: None})
    with pytest.raises(ValueError, match=sentence):
        image_scores(fake, reference, ["colours", metric])


@pytest.mark.parametrize("metric", ["inception_score", "precision_recall", "density_coverage", "kid"])
def test_metrics_that_need_rows_are_refused_without_rows(fake, reference, metric):
    without = dataclasses.replace(fake, rows=None, logits=None)
    with pytest.raises(ValueError, match=f"{metric} cannot be measured, for each image's features were not"):
        image_scores(without, reference, [metric])


@pytest.mark.parametrize("metric", IMAGE_METRICS)
def test_too_few_images_are_refused_before_they_are_drawn(extractor, fake_images, reference, metric):
    least = {"inception_score": 10, "precision_recall": 4, "density_coverage": 6}.get(metric, 2)
    check_metrics([metric], least, reference)
    image_scores(image_features(extractor, [fake_images[:least]]), reference, [metric])
    with pytest.raises(ValueError, match=f"{least - 1} images are too few for {metric}: it takes at least"):
        check_metrics([metric], least - 1)


def test_unknown_metrics_are_refused(fake, reference):
    with pytest.raises(ValueError, match=r"no metric 'FID'\. Choose from fid, sfid"):
        image_scores(fake, reference, ["fid", "FID"])
