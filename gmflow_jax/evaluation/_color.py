"""Saturation of images, which guidance is known to raise."""

import numpy as np


def saturation(images) -> np.ndarray:
    """Mean saturation of each image: (max - min) / max over the colours of a pixel, 0 for black ones (HSV).

    Args:
      images: [N, H, W, 3], any range from 0 on, such as uint8.

    Returns:
      [N], in [0, 1], float64. Real images of ImageNet average 0.318 (the paper's table of section 4).

    Raises:
      ValueError: If the shape does not fit or a value is negative.
    """
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ValueError(f"The images have shape {images.shape}, but colours need [N, H, W, 3].")
    if not images.min() >= 0:  # also catches NaN
        raise ValueError("The images have negative or undefined values; map them to a range from 0 on.")
    largest, smallest = (extreme(axis=-1).astype(np.float64) for extreme in (images.max, images.min))
    return ((largest - smallest) / np.where(largest > 0, largest, 1)).mean(axis=(1, 2))
