"""The bytes of a latent: what they mean, and how they are made."""

import numpy as np

from gmflow_jax.data._random import flip, row_generators


def record_dtype(format: str, latent_shape: tuple[int, int, int]) -> np.dtype:
    """A record: label, index in the source, then the latent, little-endian and without gaps.

    'moments' holds float16 [2, 2, h, w, C]: of the image and of its mirror image, the mean and the
    standard deviation; 'sample' holds float32 [h, w, C].
    """
    latent = ("moments", "<f2", (2, 2, *latent_shape))
    if format == "sample":
        latent = ("sample", "<f4", tuple(latent_shape))
    return np.dtype([("label", "<i4"), ("index", "<i4"), latent])


def views(pixels: np.ndarray, format: str, seed: int, index: int) -> np.ndarray:
    """What is encoded of an image [H, W, C]: it and its mirror image, or the one that is drawn."""
    both = np.stack([pixels, pixels[:, ::-1]])
    if format == "moments":
        return both
    (generator,) = row_generators(seed, [index])
    return both[[flip(generator)]]


def to_records(
    format: str, moments: np.ndarray, labels: np.ndarray, indices: np.ndarray, seed: int
) -> np.ndarray:
    """Records [n] of the moments [n, views, 2, h, w, C] of their views.

    Raises ValueError if a number is not finite or none of float16.
    """
    records = np.empty(len(moments), record_dtype(format, moments.shape[3:]))
    records["label"], records["index"] = labels, indices
    if format == "moments":
        with np.errstate(over="ignore"):
            records["moments"] = moments
    else:
        for i, generator in enumerate(row_generators(seed, indices)):
            flip(generator)  # decided about the view
            mean, std = moments[i, 0]
            records["sample"][i] = mean + std * generator.standard_normal(mean.shape, np.float32)
    latents = records[records.dtype.names[2]]
    bad = ~np.isfinite(latents).all(axis=tuple(range(1, latents.ndim)))
    if bad.any():
        raise ValueError(
            f"The latent of image {indices[bad][0]} is not finite or too large to store; check that the "
            "autoencoder's weights are those that its configuration expects, and load them as float32."
        )
    return records
