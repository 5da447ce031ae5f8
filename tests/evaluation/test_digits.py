"""Digit scores: the extremes, the known values of the reference rows, and error messages."""

import numpy as np
import pytest

from gmflow_jax import data, evaluation


@pytest.fixture(scope="module")
def real():
    digits = data.digits()
    images = data.to_unit_range(digits.images)
    return images, digits.labels, evaluation.fit_digit_classifier(images, digits.labels)


def test_real_digits_have_perfect_scores(real):
    images, labels, classifier = real
    scores = evaluation.digit_scores(images, images, labels, classifier)
    assert scores.frechet < 1e-12
    assert scores[1:] == (1, 1, 1)


def test_blurred_class_means_show_in_recall_and_frechet_only(real):
    images, labels, classifier = real
    means = np.stack([images[labels == label].mean(0) for label in range(10)])
    scores = evaluation.digit_scores(images, means[labels], labels, classifier)
    assert scores.precision == 1 and scores.accuracy == 1
    assert scores.recall == 0 and scores.frechet > 1


def test_wrong_labels_show_in_accuracy_only(real):
    images, labels, classifier = real
    scores = evaluation.digit_scores(images, images, (labels + 1) % 10, classifier)
    assert scores.accuracy == 0 and scores.recall == 1
    assert evaluation.digit_scores(images, images).accuracy is None


def test_class_gaussians_have_their_known_scores(real):
    # Known from an independent computation: Frechet 0.096, precision 0.70, recall 0.67.
    summary = evaluation.mean_and_std(evaluation.class_gaussian_scores(*real, num_seeds=3))
    assert summary["frechet"] == pytest.approx((0.096, 0.003), abs=0.004)
    assert summary["precision"][0] == pytest.approx(0.70, abs=0.02)
    assert summary["recall"][0] == pytest.approx(0.67, abs=0.03)


def test_real_halves_are_close_and_the_seeds_differ(real):
    images, labels, _ = real
    scores = evaluation.real_half_scores(images, labels, num_seeds=3)
    assert len({score.frechet for score in scores}) == 3
    for score in scores:
        assert 0.05 < score.frechet < 0.1
        assert min(score.precision, score.recall) > 0.85
        assert 0.97 < score.accuracy < 1  # on digits that the classifier hasn't seen


def test_mean_and_std_by_hand():
    scores = [
        evaluation.DigitScores(1.0, 0.5, 0.5, None), evaluation.DigitScores(3.0, 0.5, 0.7, None)
    ]
    summary = evaluation.mean_and_std(scores)
    assert summary["frechet"] == (2.0, pytest.approx(np.sqrt(2)))
    assert summary["precision"] == (0.5, 0.0) and summary["accuracy"] is None
    assert evaluation.mean_and_std(scores[:1])["recall"] == (0.5, 0.0)


def test_bad_input_is_refused(real):
    images, labels, classifier = real
    with pytest.raises(ValueError, match="to_unit_range"):
        evaluation.digit_scores(images, 2 * images - 1)
    with pytest.raises(ValueError, match="give both"):
        evaluation.digit_scores(images, images, labels)
    with pytest.raises(ValueError, match="one label per image"):
        evaluation.digit_scores(images, images, labels[:5], classifier)
    with pytest.raises(ValueError, match="NaN"):
        evaluation.digit_scores(images, np.full_like(images, np.nan))
    with pytest.raises(ValueError, match="widths 64 and 16"):
        evaluation.digit_scores(images, images[:, :4, :4])
    with pytest.raises(ValueError, match="at least one seed"):
        evaluation.mean_and_std([])
