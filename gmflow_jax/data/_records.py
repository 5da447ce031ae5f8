"""The byte layout of stored latents."""

import numpy as np

from gmflow_jax.data._random import flip, row_generators


def record_dtype(format: str, latent_shape: tuple[int, int, int]) -> np.dtype:
    """Return the dtype of a record: label, index in the source, then the latent; little-endian, no padding.

    'moments' holds float16 [2, 2, h, w, C]: for the image and for its mirror image, the mean and the
    standard deviation. 'sample' holds float32 [h, w, C].
    """
    latent = ("moments", "<f2", (2, 2, *latent_shape))
    if format == "sample":
        latent = ("sample", "<f4", tuple(latent_shape))
    return np.dtype([("label", "<i4"), ("index", "<i4"), latent])


def views(pixels: np.ndarray, format: str, seed: int, index: int) -> np.ndarray:
    """Return the versions of an image that are encoded.

    Args:
      pixels: the image [H, W, C].
      format: 'moments' or 'sample'.
      seed: seed of the draw, for 'sample'.
      index: number of the image.

    Returns:
      [views, H, W, C]: for 'moments' the image and its mirror image, for 'sample' one of them at random.
    """
    both = np.stack([pixels, pixels[:, ::-1]])
    if format == "moments":
        return both
    (generator,) = row_generators(seed, [index])
    return both[[flip(generator)]]


def to_records(
    format: str, moments: np.ndarray, labels: np.ndarray, indices: np.ndarray, seed: int
) -> np.ndarray:
    """Convert moments to records.

    Args:
      format: 'moments' or 'sample'.
      moments: [n, views, 2, h, w, C], mean and standard deviation of each version of `views`.
      labels: int [n].
      indices: numbers [n] of the images.
      seed: seed of the draws, for 'sample'.

    Returns:
      Records [n].

    Raises:
      ValueError: if a number is not finite or too large for float16.
    """
    records = np.empty(len(moments), record_dtype(format, moments.shape[3:]))
    records["label"], records["index"] = labels, indices
    if format == "moments":
        with np.errstate(over="ignore"):
            records["moments"] = moments
    else:
        for i, generator in enumerate(row_generators(seed, indices)):
            flip(generator)  # `views` used this draw
            mean, std = moments[i, 0]
            records["sample"][i] = mean + std * generator.standard_normal(mean.shape, np.float32)
    latents = records[format]
    bad = ~np.isfinite(latents).all(axis=tuple(range(1, latents.ndim)))
    if bad.any():
        raise ValueError(
            f"The latent of image {indices[bad][0]} is not finite or too large to store; check that the "
            "autoencoder's weights are those that its configuration expects, and load them as float32."
        )
    return records
