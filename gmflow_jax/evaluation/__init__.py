"""Metrics, computed in float64 numpy on features, and the reports of the quick-start data."""

from ._checkerboard import CheckerboardScores as CheckerboardScores
from ._checkerboard import checkerboard_floor as checkerboard_floor
from ._checkerboard import checkerboard_scores as checkerboard_scores
from ._color import saturation as saturation
from ._digits import DigitScores as DigitScores
from ._digits import class_gaussian_scores as class_gaussian_scores
from ._digits import digit_scores as digit_scores
from ._digits import fit_digit_classifier as fit_digit_classifier
from ._digits import real_half_scores as real_half_scores
from ._digits import seed_spread as seed_spread
from ._frechet import feature_statistics as feature_statistics
from ._frechet import frechet_distance as frechet_distance
from ._likelihood import bits_per_dim as bits_per_dim
from ._precision_recall import precision_recall as precision_recall

__all__ = [
    "CheckerboardScores", "DigitScores", "bits_per_dim", "checkerboard_floor", "checkerboard_scores",
    "class_gaussian_scores", "digit_scores", "feature_statistics", "fit_digit_classifier",
    "frechet_distance", "precision_recall", "real_half_scores", "saturation",
    "seed_spread",
]
