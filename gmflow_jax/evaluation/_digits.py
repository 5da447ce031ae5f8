"""Scores of generated 8 x 8 digits, and of two references to compare them with.

Precision or accuracy alone says little, since blurred class means score 1 in both, so every report has
recall and the Frechet distance too.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from gmflow_jax.evaluation._checks import finite
from gmflow_jax.evaluation._frechet import feature_statistics, frechet_distance
from gmflow_jax.evaluation._precision_recall import precision_recall


class DigitScores(NamedTuple):
    """Scores of generated digits.

    Attributes:
      frechet: Frechet distance of the pixels in [0, 1].
      precision: precision with k = 3, in [0, 1].
      recall: recall with k = 3, in [0, 1].
      accuracy: accuracy of the classifier in [0, 1]; None without labels.
    """

    frechet: float
    precision: float
    recall: float
    accuracy: float | None


def fit_digit_classifier(images, labels) -> Any:
    """Fit the support-vector classifier of the accuracy; fit it once, on all real digits.

    It has an RBF kernel with scikit-learn's gamma="scale" and C = 10. It classifies 97.4 % of unseen digits
    correctly (5-fold cross-validation).

    Args:
      images: [N, ...] with pixels in [0, 1].
      labels: int [N].

    Returns:
      The fitted `sklearn.svm.SVC`.

    Raises:
      ImportError: if scikit-learn is not installed.
      ValueError: if a pixel is outside [0, 1] or NaN.
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
    """Score generated digits against real ones.

    Args:
      real_images: [N, ...] with pixels in [0, 1].
      fake_images: [M, ...] with pixels in [0, 1].
      fake_labels: int [M], the labels that the images were generated for; None without labels.
      classifier: classifier of `fit_digit_classifier`; None without labels. The accuracy is the share of
        generated images that it assigns to their label.

    Returns:
      The scores.

    Raises:
      ValueError: if a pixel is outside [0, 1] or NaN, sizes differ, there are fewer than 4 images, or only
        one of `fake_labels` and `classifier` is given.
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
    """Score one random half of the real digits against the other half.

    The classifier is fitted on the other half, so its accuracy is that on unseen digits. With half of the
    samples the Frechet distance is larger than it would be with all of them.

    Args:
      images: real digits [N, ...] with pixels in [0, 1].
      labels: int [N].
      num_seeds: number of random splits.

    Returns:
      The scores for each split.
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
    """Score samples from one Gaussian per class, the simple model that a network must beat.

    Each class has its own mean and full covariance (divisor N - 1) of the pixels in [0, 1]. Each draw has as
    many digits of a class as the data, clipped to [0, 1].

    Args:
      images: real digits [N, ...] with pixels in [0, 1].
      labels: int [N].
      classifier: classifier of `fit_digit_classifier`.
      num_seeds: number of draws.

    Returns:
      The scores for each draw.
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
    """Summarise scores by their mean and standard deviation (divisor n - 1).

    Args:
      scores: scores of several seeds, all of the same NamedTuple.

    Returns:
      (mean, std) of each field, by name; None for a field that is None for any seed. The standard deviation
      of a single seed is 0.

    Raises:
      ValueError: if there are no scores.
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
    """Return images [N, ...] as rows of float64 pixels; raise ValueError for pixels outside [0, 1]."""
    images = finite(images, name)
    if images.ndim < 2 or not images.size:
        raise ValueError(f"{name} has shape {images.shape}; give images [N, height, width].")
    if images.min() < -1e-6 or images.max() > 1 + 1e-6:
        raise ValueError(
            f"{name} has pixels from {images.min():.3g} to {images.max():.3g}, but the scores are "
            "of pixels in [0, 1]; map the model's range with gmflow_jax.data.to_unit_range."
        )
    return images.reshape(len(images), -1)
