"""Checks of arrays, shared by the metrics."""

import numpy as np


def finite(values, name: str, dtype: type[np.floating] = np.float64) -> np.ndarray:
    """Convert values to an array and check that they are finite.

    Args:
      values: array of any shape.
      name: name of the array in the error message.
      dtype: dtype of the result.

    Returns:
      The array.

    Raises:
      ValueError: if a value is NaN or infinite.
    """
    values = np.asarray(values, dtype)
    bad = values.size - np.count_nonzero(np.isfinite(values))
    if bad:
        raise ValueError(
            f"{name}: {bad} of {values.size} values are NaN or infinite, so metrics are undefined; "
            "find out where the sampler or the network diverged."
        )
    return values


def feature_rows(
    features, name: str, min_rows: int, reason: str, dtype: type[np.floating]
) -> np.ndarray:
    """Convert features to an array and check it.

    Args:
      features: [N, D].
      name: name of the array in the error message.
      min_rows: the least N.
      reason: why so many rows are needed, for the error message.
      dtype: dtype of the result.

    Returns:
      The array [N, D].

    Raises:
      ValueError: if the shape is another one, a value is NaN or infinite, or N < `min_rows`.
    """
    features = finite(features, name, dtype)
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
    """Check that two sets of features have the same width.

    Args:
      width_1: number of features of the first set.
      width_2: number of features of the second set.
      what: the two sets, for the error message.

    Raises:
      ValueError: if the widths differ.
    """
    if width_1 != width_2:
        raise ValueError(
            f"{what} have widths {width_1} and {width_2}, so they cannot be compared; "
            "compute both with the same feature extractor."
        )


def check_images(images) -> np.ndarray:
    """Check that images are uint8 [N, H, W, 3] with N >= 1.

    The networks and statistics of the metrics are made for uint8; images with another range would give
    wrong scores without an error.

    Args:
      images: the array.

    Returns:
      The images as a numpy array.

    Raises:
      ValueError: if they are of another dtype or shape; the message says how to convert them.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ValueError(
            f"The images have shape {images.shape}, but [N, H, W, 3] is needed: at least one image, colours "
            "last; transpose or stack them."
        )
    if images.dtype == np.uint8:
        return images
    low, high = images.min(), images.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        advice = "some values are NaN or infinite; find out where the sampler diverged"
    elif low >= 0 and high <= 1:
        advice = "these look like images in [0, 1]; give np.round(255 * images).astype(np.uint8)"
    elif low >= -1 and high <= 1:
        advice = "these look like images in [-1, 1]; give np.round(127.5 * (images + 1)).astype(np.uint8)"
    elif low >= 0 and high <= 255:
        advice = "these look like images in [0, 255]; give np.round(images).astype(np.uint8)"
    else:
        advice = "the range is unusual; clip the images to the model's range, then map that to 0 to 255"
    raise ValueError(
        f"The images are {images.dtype} from {low:.3g} to {high:.3g}, but uint8 from 0 to 255 is needed: "
        f"{advice}."
    )
