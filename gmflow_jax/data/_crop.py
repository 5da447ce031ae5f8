"""The picture that a network sees of a photograph."""

import numpy as np
from PIL import Image


def center_crop(image: Image.Image, size: int) -> np.ndarray:
    """The largest centred square of a picture, resized to uint8 [size, size, 3].

    ADM's recipe (Dhariwal and Nichol 2021, arXiv 2105.05233), which evaluations on ImageNet are based
    on: sides are halved by averaging while the shorter one stays at least `size`, then resized
    bicubically so that the shorter one is `size`, then cropped. Any mode, such as CMYK, greyscale or a
    palette, becomes RGB first, so that colours are what is averaged.
    Raises ValueError for a size below 1.
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
