"""The centre crop by which images become the input of a network."""

import numpy as np
from PIL import ExifTags, Image

_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF; Pillow applies it to 8 bits only
# The transposition that makes an image upright, by EXIF's orientation.
_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def center_crop(image: Image.Image, size: int, exif_orientation: bool = False) -> np.ndarray:
    """Crop the largest centred square of an image and resize it.

    The sides are halved by averaging while the shorter one stays at least `size`, then the image is
    resized bicubically so that the shorter side is `size`, then cropped. Every mode, such as CMYK,
    greyscale or a palette, is converted to RGB first, so that colours are averaged. Transparency is
    dropped, and of several frames the current one is taken.

    Grey values of 16 bits are divided by 257, and floats in [0, 1] are multiplied by 255, then rounded.
    Integers of 32 bits do not tell their range: they are read as 8 bits if none is above 255, else as 16
    bits.

    Args:
      image: image of any mode and size.
      size: pixels along a side of the crop.
      exif_orientation: whether to turn the image upright by its EXIF orientation, as cameras and phones
        expect it. ADM ignores this tag. Pillow itself turns every TIFF.

    Returns:
      uint8 [size, size, 3].

    Raises:
      ValueError: if `size` is below 1, or the image has NaN, floats outside [0, 1], or integers outside 0
        to 65535.

    Source:
      ADM (Dhariwal and Nichol 2021, arXiv 2105.05233), whose recipe is usual in evaluations on ImageNet.
    """
    if size < 1:
        raise ValueError(f"The size is {size}, but a picture has at least 1 pixel; give a positive size.")
    image.load()  # removes the orientation of a TIFF
    orientation = image.getexif().get(ExifTags.Base.Orientation) if exif_orientation else None
    image = _to_rgb(image)
    if orientation in _TRANSPOSES:
        image = image.transpose(_TRANSPOSES[orientation])
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
    resized = (round(image.width * scale), round(image.height * scale))
    pixels = np.asarray(image.resize(resized, Image.Resampling.BICUBIC))
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top:top + size, left:left + size]


def _to_rgb(image: Image.Image) -> Image.Image:
    # Pillow clips these modes to 0..255, so that they would become white or black.
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image = Image.fromarray(_to_8_bits(image))
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> np.ndarray:
    """Scale a grey image of 16 bits, of 32-bit integers or of floats to uint8 [H, W]."""
    values = np.asarray(image, np.float64)
    low, high = values.min(), values.max()
    if image.mode == "F":
        white = 1
    elif image.mode == "I" and image.format not in ("PNG", "PPM") and high <= 255:
        white = 255  # in PNG and PPM this mode has 16 bits
    else:
        white = 65535
    if not 0 <= low <= high <= white:  # nor are NaN
        raise ValueError(
            f"The grey values are from {low:g} to {high:g}, but must be from 0 to {white}; convert the image "
            "to 8 bits."
        )
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = white - values
    return np.floor(values * (255 / white) + 0.5).astype(np.uint8)
