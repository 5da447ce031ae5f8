"""Scores of generated 8 x 8 digits, and the reference rows that give them a scale.

Precision or accuracy alone says nothing (blurred class means score 1 in both), so every score
comes with recall and the Frechet distance.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gmflow_jax.evaluation._checks import finite
from gmflow_jax.evaluation._frechet import feature_statistics, frechet_distance
from gmflow_jax.evaluation._precision_recall import precision_recall


class DigitScores(NamedTuple):
    """`frechet` on pixels in [0, 1]; `precision`, `recall` (k = 3), `accuracy` in [0, 1]."""

    frechet: float
    precision: float
    recall: float
    accuracy: float | None


def fit_digit_classifier(images, labels) -> Any:
    """Fit the support-vector classifier of the accuracy column; fit it once on all real digits.

    `images` [N, ...] with pixels in [0, 1], `labels` [N]. An RBF kernel with scikit-learn's
    gamma="scale" and C = 10, which classifies 97.4 % of unseen digits (5-fold cross-validation).
    """
    try:
        from sklearn.svm import SVC
    except ImportError as error:
        raise ImportError(
            "The digit classifier is scikit-learn's, which is not installed; install it with "
            "`pip install scikit-learn` or the extra `gmflow-jax[train]`."
        ) from error
    return SVC(C=10.0, gamma="scale").fit(_pixels(images, "images"), np.asarray(labels))


def digit_scores(real_images, fake_images, fake_labels=None, classifier=None) -> DigitScores:
    """Score fake images against real ones, both [N, ...] with pixels in [0, 1].

    `accuracy` is the share of fakes that `classifier` (of `fit_digit_classifier`) gives the label
    they were made for, `fake_labels` [N]; None without labels.
    Raises ValueError for pixels outside [0, 1], NaN, mismatched sizes or fewer than 4 images.
    """
    if (fake_labels is None) != (classifier is None):
        raise ValueError(
            "Accuracy needs fake_labels and a classifier, but only one was given; give both "
            "(see fit_digit_classifier) or neither."
        )
    real, fake = _pixels(real_images, "real_images"), _pixels(fake_images, "fake_images")
    precision, recall = precision_recall(real, fake, k=3, dtype="float64")
    frechet = frechet_distance(*feature_statistics(real), *feature_statistics(fake))
    accuracy = None
    if classifier is not None:
        fake_labels = np.asarray(fake_labels)
        if fake_labels.shape != (len(fake),):
            raise ValueError(
                f"fake_labels has shape {fake_labels.shape} for {len(fake)} images; give one "
                "label per image."
            )
        accuracy = float(np.mean(classifier.predict(fake) == fake_labels))
    return DigitScores(frechet, precision, recall, accuracy)


def real_half_scores(images, labels, num_seeds: int = 8) -> list[DigitScores]:
    """Score one random half of the real digits as if it were the fake one, for each seed.

    The classifier is fit on the other half, so that its accuracy is that on unseen digits.
    Half the samples make the Frechet distance larger than it would be at full size.
    """
    pixels, labels = _pixels(images, "images"), np.asarray(labels)
    scores = []
    for seed in range(num_seeds):
        order = np.random.default_rng(seed).permutation(len(pixels))
        reference, held_out = np.split(order, [len(order) // 2])
        classifier = fit_digit_classifier(pixels[reference], labels[reference])
        scores.append(
            digit_scores(pixels[reference], pixels[held_out], labels[held_out], classifier)
        )
    return scores


def class_gaussian_scores(images, labels, classifier, num_seeds: int = 8) -> list[DigitScores]:
    """Score draws from one Gaussian per class, for each seed: the floor a model must beat.

    Each class has its own mean and full covariance (divisor N - 1) of its pixels in [0, 1]; each
    draw has as many digits of a class as the data, and is clipped to [0, 1].
    """
    pixels, labels = _pixels(images, "images"), np.asarray(labels)
    scores = []
    for seed in range(num_seeds):
        rng = np.random.default_rng(seed)
        fake = np.empty_like(pixels)
        for label in np.unique(labels):
            members = labels == label
            mean, covariance = feature_statistics(pixels[members])
            fake[members] = rng.multivariate_normal(
                mean, covariance, size=members.sum(), method="eigh"  # constant pixels: singular
            )
        scores.append(digit_scores(pixels, fake.clip(0, 1), labels, classifier))
    return scores


def mean_and_std(scores: Sequence[NamedTuple]) -> dict[str, tuple[float, float] | None]:
    """Mean and standard deviation (divisor n - 1) over seeds of every field of the scores.

    A field that is None for any seed stays None; the deviation over a single seed is 0.
    Raises ValueError without scores.
    """
    if not scores:
        raise ValueError("There are no scores to summarise; score at least one seed.")
    ddof = min(1, len(scores) - 1)
    columns = zip(scores[0]._fields, zip(*scores, strict=True), strict=True)
    return {
        name: None if None in values else (float(np.mean(values)), float(np.std(values, ddof=ddof)))
        for name, values in columns
    }


def _pixels(images, name: str) -> np.ndarray:
    """Images [N, ...] as rows of float64 pixels; raises ValueError for pixels outside [0, 1]."""
    images = finite(images, name)
    if images.ndim < 2 or not images.size:
        raise ValueError(f"{name} has shape {images.shape}; give images [N, height, width].")
    if images.min() < -1e-6 or images.max() > 1 + 1e-6:
        raise ValueError(
            f"{name} has pixels from {images.min():.3g} to {images.max():.3g}, but the scores are "
            "of pixels in [0, 1]; map the model's range with gmflow_jax.data.to_unit_range."
        )
    return images.reshape(len(images), -1)
