"""Colour statistics of images: guidance tends to move them away from those of real images."""

import functools
from collections.abc import Iterator

import numpy as np


def saturation(images) -> np.ndarray:
    """Return the mean saturation of each image.

    The saturation of a pixel is that of HSV: (max - min) / max over its channels, 0 if it is black.

    Args:
      images: [N, H, W, 3], with values from 0 on in any range, such as uint8.

    Returns:
      float64 [N] in [0, 1]. Real images of ImageNet average 0.318 (the paper's table of section 4).

    Raises:
      ValueError: if the shape is another one or a value is negative or NaN.
    """
    colors = np.moveaxis(_colors(images), -1, 0)  # reducing the short last axis takes 9 times as long
    largest, smallest = (functools.reduce(extreme, colors) for extreme in (np.maximum, np.minimum))
    return ((largest - smallest) / np.where(largest > 0, largest, 1).astype(np.float64)).mean(axis=(1, 2))


def brightness(images) -> np.ndarray:
    """Return the mean brightness of each image.

    The brightness of a pixel is the sRGB grey with the same luminance: the luminance of linear light,
    0.2126 R + 0.7152 G + 0.0722 B, mapped back by the transfer function of sRGB (IEC 61966-2-1). So the
    brightness of a grey pixel is its value. The authors' figures differ, since their code takes columns of
    pixels for colours.

    Args:
      images: [N, H, W, 3] sRGB, uint8 or floats in [0, 1].

    Returns:
      float64 [N] in [0, 1].

    Raises:
      ValueError: if the shape is another one or a value is outside the range.
    """
    return np.array([grey.mean() for grey in _greys(images)])


def contrast(images) -> np.ndarray:
    """Return the standard deviation (divisor n - 1) of the brightness over the pixels of each image.

    Args:
      images: [N, H, W, 3] sRGB, uint8 or floats in [0, 1].

    Returns:
      float64 [N]; 0 for an image of one pixel.

    Raises:
      ValueError: if the shape is another one or a value is outside the range.
    """
    return np.array([_pixel_std(grey) for grey in _greys(images)])


def color_statistics(images) -> dict[str, np.ndarray]:
    """Return `saturation`, `brightness` and `contrast` of each image, by name.

    This is faster than the three calls. It raises ValueError where they do.
    """
    greys = [(grey.mean(), _pixel_std(grey)) for grey in _greys(images)]
    mean, std = np.array(greys).T
    return {"saturation": saturation(images), "brightness": mean, "contrast": std}


def _pixel_std(grey: np.ndarray) -> float:
    return grey.std(ddof=min(1, grey.size - 1))


def _greys(images) -> Iterator[np.ndarray]:
    """Yield the brightness of the pixels of each image, float64 [H, W] in [0, 1]."""
    images = _colors(images)
    if images.dtype != np.uint8 and images.max() > 1:
        raise ValueError(
            f"The images have values up to {images.max():.3g} and are {images.dtype}; give uint8, or floats "
            "in [0, 1]."
        )
    table = _linear(np.arange(256) / 255)  # a look-up is faster than a power
    for image in images:
        linear = table[image] if image.dtype == np.uint8 else _linear(image.astype(np.float64))
        luminance = linear @ [0.2126, 0.7152, 0.0722]
        yield np.where(luminance <= 0.0031308, 12.92 * luminance, 1.055 * luminance ** (1 / 2.4) - 0.055)


def _linear(srgb: np.ndarray) -> np.ndarray:
    """Return the linear light of sRGB values in [0, 1]."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _colors(images) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ValueError(f"The images have shape {images.shape}, but colour statistics need [N, H, W, 3].")
    if not images.min() >= 0:  # also catches NaN
        raise ValueError("The images have negative or NaN values; map them to a range from 0 on.")
    return images
