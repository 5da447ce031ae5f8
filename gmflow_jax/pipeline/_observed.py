"""Checks of observed images and latents, and masks of the pixels that are drawn anew."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np

from gmflow_jax._arguments import is_within
from gmflow_jax.interop import Bundle
from gmflow_jax.pipeline._sampler import transformer_of


@dataclasses.dataclass(frozen=True)
class Shapes:
    """Shapes of one sample.

    Attributes:
      latent: [h, w, C].
      image: [H, W, channels], or None without an autoencoder.
    """

    latent: tuple[int, ...]
    image: tuple[int, ...] | None

    @classmethod
    def of(cls, bundle: Bundle) -> "Shapes":
        """Return the shapes of what a bundle draws."""
        config = transformer_of(bundle).config
        latent = (*config.input_height_width, config.in_channels)
        if bundle.autoencoder is None:
            return cls(latent, None)
        encoder = bundle.autoencoder.config
        return cls(latent, (*(size * encoder.downscale for size in latent[:2]), encoder.in_channels))


def as_observed(images: Any, shapes: Shapes) -> np.ndarray:
    """Return uint8 images [n, H, W, channels] or float32 latents [n, h, w, C].

    Raises:
      ValueError: if the images are neither.
    """
    array = _as_array(images)
    if array.dtype.kind not in "buifV":  # V: bfloat16 of ml_dtypes
        raise ValueError(f"The images are of type {type(images).__name__}, not an array of numbers.")
    if jnp.issubdtype(array.dtype, jnp.floating) and array.shape[1:] == shapes.latent:
        return array.astype(np.float32)
    if array.dtype == np.uint8 and shapes.image is not None and array.shape[1:] == shapes.image:
        return array
    wanted, hint = f"latents, floats {_axes('n', *shapes.latent)}", "Encode images yourself, or add vae/."
    if shapes.image is not None:
        wanted = f"uint8 {_axes('n', *shapes.image)} from 0 to 255, or {wanted}"
        hint = "Crop or resize images of another size; a single one needs a first axis, image[None]."
        if array.shape[1:] == shapes.image:
            hint = "Convert integers by astype(np.uint8), and floats in [0, 1] after (255 * images).round()."
    without = "" if shapes.image else ", as there is no autoencoder to encode images"
    raise ValueError(
        f"The images are {array.dtype} of shape {array.shape}, but must be {wanted}{without}. {hint}"
    )


def check_observation(
    observation: Any, num_images: int, shapes: Shapes
) -> tuple[np.ndarray, np.ndarray] | None:
    """Return what is observed, as `as_observed`, and its variance, float32 [n, h, w].

    Args:
      observation: None, or a pair as in `Pipeline.batches`.
      num_images: number of labels.
      shapes: shapes of one sample.

    Returns:
      The pair, or None.

    Raises:
      ValueError: if the pair cannot be an observation of that many images.
    """
    if observation is None:
        return None
    if not isinstance(observation, tuple | list) or len(observation) != 2:
        raise ValueError("observation must be a pair (y, var) of images or latents and their variance.")
    y = as_observed(observation[0], shapes)
    if len(y) != num_images:
        raise ValueError(
            f"There are {num_images} labels and {len(y)} observed images; give one image for each label. "
            "np.repeat repeats images."
        )
    var = _as_array(observation[1])
    number = var.dtype.kind in "iu" and not var.ndim
    if not (number or jnp.issubdtype(var.dtype, jnp.floating)) or not is_within(var, "[0, inf]"):
        raise ValueError(
            "The variance of an observation must be floats of at least 0: 0 where latent pixels are known, "
            "inf where they are drawn anew. For a mask, give np.where(mask, np.inf, 0.0)."
        )
    try:
        var = np.broadcast_to(var.astype(np.float32), (num_images, *shapes.latent[:2]))
    except ValueError as error:
        raise ValueError(
            f"The variance of an observation has shape {var.shape}, but needs a number for each latent "
            f"pixel, {_axes(num_images, *shapes.latent[:2])}, or axes of size 1."
        ) from error
    if y.dtype != np.uint8 and not np.isfinite(y[np.isfinite(var)]).all():
        raise ValueError(
            "The observed latents are NaN or infinite at known pixels; check them, or draw these pixels anew."
        )
    return y, var


def as_mask(mask: Any, num_images: int, shapes: Shapes) -> np.ndarray:
    """Return a mask of pixels to draw anew, in latent or image pixels, as bool [n, height, width].

    Args:
      mask: True or > 0 where pixels are drawn anew, of the size of latents or images, for each image or for
        all.
      num_images: number of images.
      shapes: shapes of one sample.

    Returns:
      The mask, in the pixels in which it was given.

    Raises:
      ValueError: if its shape does not fit, or it is not of numbers.
    """
    array = _as_array(mask)
    numbers = array.dtype.kind in "buif"
    if not numbers or np.isnan(array).any():
        raise ValueError(
            f"The mask is {array.dtype}{' with NaN' * numbers}, but must be booleans or numbers: True or "
            "> 0 where pixels are drawn anew."
        )
    sizes = [shape[:2] for shape in (shapes.latent, shapes.image) if shape is not None]
    if array.shape[-2:] not in sizes or array.shape[:-2] not in ((), (1,), (num_images,)):
        pixels = " or ".join(_axes(*size) for size in dict.fromkeys(sizes))
        raise ValueError(
            f"The mask has shape {array.shape}, but must have the size of latents or images, {pixels}, with "
            f"a first axis of {num_images} for a mask of each image, and without channels."
        )
    return np.broadcast_to(array > 0, (num_images, *array.shape[-2:]))


def in_latent_pixels(mask: np.ndarray, shapes: Shapes) -> np.ndarray:
    """Pool a mask: a latent pixel is drawn anew if any of its pixels is."""
    height, width = shapes.latent[:2]
    blocks = mask.reshape(len(mask), height, mask.shape[1] // height, width, mask.shape[2] // width)
    return np.any(blocks, axis=(2, 4))


def paste(mask: np.ndarray, drawn: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Return `drawn` where the mask is True, and `images` elsewhere. The mask may be in latent pixels."""
    factor = images.shape[1] // mask.shape[1]
    return np.where(mask.repeat(factor, 1).repeat(factor, 2)[..., None], drawn, images)


def _as_array(value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError:  # a list of arrays of several shapes
        return np.asarray(None)


def _axes(*sizes: int | str) -> str:
    return f"[{', '.join(map(str, sizes))}]"
