"""Statistics of the colours of images, which guidance is known to move away from those of real images."""

import functools

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
    colors = np.moveaxis(_colors(images), -1, 0)  # a reduction of a short axis takes 9 times as long
    largest, smallest = (functools.reduce(extreme, colors) for extreme in (np.maximum, np.minimum))
    return ((largest - smallest) / np.where(largest > 0, largest, 1).astype(np.float64)).mean(axis=(1, 2))


def brightness(images) -> np.ndarray:
    """Mean over the pixels of each image of the grey, in sRGB, that is as luminous as the pixel.

    The luminance of linear light, 0.2126 R + 0.7152 G + 0.0722 B, mapped back by the transfer function of
    sRGB (IEC 61966-2-1), so that a grey pixel's brightness is its value. The authors report this of
    columns of pixels in the place of colours, so their figures differ.

    Args:
      images: [N, H, W, 3] sRGB, uint8 or floats in [0, 1].

    Returns:
      [N], in [0, 1], float64.

    Raises:
      ValueError: If the shape does not fit or a value is outside the range.
    """
    return np.array([_luminous_grey(image).mean() for image in _in_unit_range(images)])


def contrast(images) -> np.ndarray:
    """Standard deviation (divisor n - 1) over the pixels of each image of what `brightness` averages.

    Takes and raises the same. [N], 0 for an image of one pixel, float64.
    """
    return np.array([
        _luminous_grey(image).std(ddof=min(1, image[..., 0].size - 1)) for image in _in_unit_range(images)
    ])


def _luminous_grey(image: np.ndarray) -> np.ndarray:
    """[H, W] of an sRGB image [H, W, 3] in [0, 1]."""
    linear = np.where(image <= 0.04045, image / 12.92, ((image + 0.055) / 1.055) ** 2.4)
    luminance = linear @ [0.2126, 0.7152, 0.0722]
    return np.where(luminance <= 0.0031308, 12.92 * luminance, 1.055 * luminance ** (1 / 2.4) - 0.055)


def _in_unit_range(images):
    """Yields images in [0, 1], float64, one by one."""
    images = _colors(images)
    if images.dtype != np.uint8 and images.max() > 1:
        raise ValueError(
            f"The images have values up to {images.max():.3g} and are {images.dtype}; give uint8, or floats "
            "in [0, 1]."
        )
    unit = 255.0 if images.dtype == np.uint8 else 1.0
    return (image.astype(np.float64) / unit for image in images)


def _colors(images) -> np.ndarray:
    images = np.asarray(images)
    if images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise ValueError(f"The images have shape {images.shape}, but colours need [N, H, W, 3].")
    if not images.min() >= 0:  # also catches NaN
        raise ValueError("The images have negative or undefined values; map them to a range from 0 on.")
    return images
