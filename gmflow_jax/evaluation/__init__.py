"""Metrics, in numpy on features, the features themselves, and the reports of the quick-start data."""

from gmflow_jax.evaluation._checkerboard import CheckerboardScores as CheckerboardScores
from gmflow_jax.evaluation._checkerboard import checkerboard_floor as checkerboard_floor
from gmflow_jax.evaluation._checkerboard import checkerboard_scores as checkerboard_scores
from gmflow_jax.evaluation._checks import check_images as check_images
from gmflow_jax.evaluation._color import brightness as brightness
from gmflow_jax.evaluation._color import colour_statistics as colour_statistics
from gmflow_jax.evaluation._color import contrast as contrast
from gmflow_jax.evaluation._color import saturation as saturation
from gmflow_jax.evaluation._digits import DigitScores as DigitScores
from gmflow_jax.evaluation._digits import class_gaussian_scores as class_gaussian_scores
from gmflow_jax.evaluation._digits import digit_scores as digit_scores
from gmflow_jax.evaluation._digits import fit_digit_classifier as fit_digit_classifier
from gmflow_jax.evaluation._digits import real_half_scores as real_half_scores
from gmflow_jax.evaluation._digits import seed_spread as seed_spread
from gmflow_jax.evaluation._extract import FeatureExtractor as FeatureExtractor
from gmflow_jax.evaluation._frechet import feature_statistics as feature_statistics
from gmflow_jax.evaluation._frechet import frechet_distance as frechet_distance
from gmflow_jax.evaluation._image_features import ImageFeatures as ImageFeatures
from gmflow_jax.evaluation._image_features import image_features as image_features
from gmflow_jax.evaluation._image_scores import IMAGE_METRICS as IMAGE_METRICS
from gmflow_jax.evaluation._image_scores import available_metrics as available_metrics
from gmflow_jax.evaluation._image_scores import check_metrics as check_metrics
from gmflow_jax.evaluation._image_scores import image_scores as image_scores
from gmflow_jax.evaluation._inception_score import inception_score as inception_score
from gmflow_jax.evaluation._kernel import kernel_distance as kernel_distance
from gmflow_jax.evaluation._labels import LABEL_RULES as LABEL_RULES
from gmflow_jax.evaluation._labels import evaluation_labels as evaluation_labels
from gmflow_jax.evaluation._likelihood import bits_per_dim as bits_per_dim
from gmflow_jax.evaluation._npz import npz_rows as npz_rows
from gmflow_jax.evaluation._npz import npz_shapes as npz_shapes
from gmflow_jax.evaluation._precision_recall import density_coverage as density_coverage
from gmflow_jax.evaluation._precision_recall import precision_recall as precision_recall
from gmflow_jax.evaluation._reference import Moments as Moments
from gmflow_jax.evaluation._reference import Reference as Reference
from gmflow_jax.evaluation._reference import load_reference as load_reference
from gmflow_jax.evaluation._reference import save_reference as save_reference
from gmflow_jax.evaluation._statistics import FeatureStatistics as FeatureStatistics

__all__ = [
    "IMAGE_METRICS", "LABEL_RULES", "CheckerboardScores", "DigitScores", "FeatureExtractor",
    "FeatureStatistics", "ImageFeatures", "Moments", "Reference", "available_metrics", "bits_per_dim",
    "brightness", "check_images", "check_metrics", "checkerboard_floor", "checkerboard_scores",
    "class_gaussian_scores", "colour_statistics", "contrast", "density_coverage", "digit_scores",
    "evaluation_labels", "feature_statistics", "fit_digit_classifier", "frechet_distance",
    "image_features", "image_scores", "inception_score", "kernel_distance", "load_reference",
    "npz_rows", "npz_shapes", "precision_recall", "real_half_scores", "saturation", "save_reference",
    "seed_spread",
]
