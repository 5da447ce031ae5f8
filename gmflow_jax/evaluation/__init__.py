"""Metrics, in numpy on features, the features themselves, and the reports of the quick-start data."""

from ._checkerboard import CheckerboardScores as CheckerboardScores
from ._checkerboard import checkerboard_floor as checkerboard_floor
from ._checkerboard import checkerboard_scores as checkerboard_scores
from ._checks import check_images as check_images
from ._color import brightness as brightness
from ._color import colour_statistics as colour_statistics
from ._color import contrast as contrast
from ._color import saturation as saturation
from ._digits import DigitScores as DigitScores
from ._digits import class_gaussian_scores as class_gaussian_scores
from ._digits import digit_scores as digit_scores
from ._digits import fit_digit_classifier as fit_digit_classifier
from ._digits import real_half_scores as real_half_scores
from ._digits import seed_spread as seed_spread
from ._extract import FeatureExtractor as FeatureExtractor
from ._frechet import feature_statistics as feature_statistics
from ._frechet import frechet_distance as frechet_distance
from ._image_features import ImageFeatures as ImageFeatures
from ._image_features import image_features as image_features
from ._image_scores import IMAGE_METRICS as IMAGE_METRICS
from ._image_scores import available_metrics as available_metrics
from ._image_scores import check_metrics as check_metrics
from ._image_scores import image_scores as image_scores
from ._inception_score import inception_score as inception_score
from ._kernel import kernel_distance as kernel_distance
from ._labels import LABEL_RULES as LABEL_RULES
from ._labels import evaluation_labels as evaluation_labels
from ._likelihood import bits_per_dim as bits_per_dim
from ._npz import npz_rows as npz_rows
from ._npz import npz_shapes as npz_shapes
from ._precision_recall import density_coverage as density_coverage
from ._precision_recall import precision_recall as precision_recall
from ._reference import Moments as Moments
from ._reference import Reference as Reference
from ._reference import load_reference as load_reference
from ._reference import save_reference as save_reference
from ._statistics import FeatureStatistics as FeatureStatistics

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
