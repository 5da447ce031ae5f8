"""Evaluation: features of images, metrics in numpy, and scores of digits and of the checkerboard."""

from gmflow_jax.evaluation._checkerboard import CheckerboardScores, checkerboard_floor, checkerboard_scores
from gmflow_jax.evaluation._checks import check_images
from gmflow_jax.evaluation._color import brightness, color_statistics, contrast, saturation
from gmflow_jax.evaluation._digits import (
    DigitScores,
    class_gaussian_scores,
    digit_scores,
    fit_digit_classifier,
    mean_and_std,
    real_half_scores,
)
from gmflow_jax.evaluation._extract import FeatureExtractor
from gmflow_jax.evaluation._frechet import feature_statistics, frechet_distance
from gmflow_jax.evaluation._image_features import ImageFeatures, image_features
from gmflow_jax.evaluation._image_scores import IMAGE_METRICS, available_metrics, check_metrics, image_scores
from gmflow_jax.evaluation._inception_score import inception_score
from gmflow_jax.evaluation._kernel import kernel_distance
from gmflow_jax.evaluation._labels import LABEL_RULES, evaluation_labels
from gmflow_jax.evaluation._likelihood import bits_per_dim
from gmflow_jax.evaluation._npz import npz_rows, npz_shapes
from gmflow_jax.evaluation._precision_recall import density_coverage, precision_recall
from gmflow_jax.evaluation._reference import Moments, Reference, load_reference, save_reference
from gmflow_jax.evaluation._statistics import FeatureStatistics

__all__ = [
    "IMAGE_METRICS", "LABEL_RULES", "CheckerboardScores", "DigitScores", "FeatureExtractor",
    "FeatureStatistics", "ImageFeatures", "Moments", "Reference", "available_metrics",
    "bits_per_dim", "brightness", "check_images", "check_metrics", "checkerboard_floor",
    "checkerboard_scores", "class_gaussian_scores", "color_statistics", "contrast",
    "density_coverage", "digit_scores", "evaluation_labels", "feature_statistics",
    "fit_digit_classifier", "frechet_distance", "image_features", "image_scores", "inception_score",
    "kernel_distance", "load_reference", "mean_and_std", "npz_rows", "npz_shapes", "precision_recall",
    "real_half_scores", "saturation", "save_reference",
]
