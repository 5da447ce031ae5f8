"""Checks of measured arrays, shared by the metrics."""

import numpy as np


def finite(values, name: str) -> np.ndarray:
    """`values` as float64; raises ValueError if any is NaN or infinite."""
    values = np.asarray(values, np.float64)
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise ValueError(
            f"{name}: {bad} of {values.size} values are NaN or infinite, so no metric is defined; "
            "find out where the sampler or the network diverged."
        )
    return values


def feature_rows(features, name: str, min_rows: int, reason: str) -> np.ndarray:
    """Features [N, D] as float64; raises ValueError on other shapes, NaN, or N < `min_rows`."""
    features = finite(features, name)
    if features.ndim != 2 or features.shape[1] < 1:
        raise ValueError(
            f"{name}: the shape is {features.shape}, but features are [samples, width]; "
            "flatten each sample to one row."
        )
    if len(features) < min_rows:
        raise ValueError(
            f"{name}: there are {len(features)} samples, but {reason}; give at least {min_rows}."
        )
    return features


def same_width(width_1: int, width_2: int, what: str) -> None:
    """Raise ValueError unless two sets of features have the same width."""
    if width_1 != width_2:
        raise ValueError(
            f"{what} have widths {width_1} and {width_2}, so they cannot be compared; "
            "compute both with the same feature extractor."
        )
