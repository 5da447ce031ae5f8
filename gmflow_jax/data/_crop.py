"""The centre crop by which images become the input of a network."""

import numpy as np
from PIL import Image


def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """Crop the largest centred square of an image and resize it.

    The sides are halved by averaging while the shorter one stays at least `size`, then the image is
    resized bicubically so that the shorter side is `size`, then cropped. Every mode, such as CMYK,
    greyscale or a palette, is converted to RGB first, so that colours are averaged.

    Args:
      image: image of any mode and size.
      size: pixels along a side of the crop.

    Returns:
      uint8 [size, size, 3].

    Raises:
      ValueError: if `size` is below 1.

    Source:
      ADM (Dhariwal and Nichol 2021, arXiv 2105.05233), whose recipe is usual in evaluations on ImageNet.
    """
    if size < 1:
        raise ValueError(f"The size is {size}, but a picture has at least 1 pixel; give a positive size.")
    image = image.convert("RGB")
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    resized = (round(image.width * scale), round(image.height * scale))
    pixels = np.asarray(image.resize(resized, Image.Resampling.BICUBIC))
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top:top + size, left:left + size]
