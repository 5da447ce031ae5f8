"""The Inception network whose features FID, sFID and the Inception Score are made of."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array

from gmflow_jax.models._inception_blocks import MIXED, STEM, Mixed, add_layers, apply_layers

_SIZE = 299  # height and width that the network sees
_NUM_CLASSES = 1008
_SPATIAL_CHANNELS = 7  # of 17 x 17 pixels: about as many numbers as pool3 has


class InceptionFeatures(NamedTuple):
    """What the metrics use of B images, all float32.

    Attributes:
      pool3: Mean over all pixels of the last block, [B, 2048], for FID, precision and recall.
      spatial: The first 7 channels of `Mixed_6d.branch1x1`, [B, 2023], in the order row, column,
        channel, for sFID.
      logits: Class logits without the bias, [B, 1008], for the Inception Score.
    """

    pool3: Array
    spatial: Array
    logits: Array


class InceptionV3(nnx.Module):
    """Maps uint8 images to the features of FID (Szegedy et al. 2016, arXiv 1512.00567).

    The graph of 2015-12-05 that Heusel et al. (2017, arXiv 1706.08500) define FID by and ADM's evaluator
    runs, not torchvision's network. Weights come from `interop.load_inception`. Compile it by
    `apply, params = functional(inception)` and `jax.jit(apply)`.
    """

    def __init__(self, rngs: nnx.Rngs):
        channels = add_layers(self, STEM, 3, rngs)
        for name in MIXED:
            block = Mixed(name, channels, rngs)
            setattr(self, name, block)
            channels = block.channels
        precision = jax.lax.Precision.HIGHEST
        self.fc = nnx.Linear(channels, _NUM_CLASSES, use_bias=False, precision=precision, rngs=rngs)

    def __call__(self, images: Array) -> InceptionFeatures:
        """Features of images, uint8 [B, H, W, 3] in RGB of any height and width.

        Images are resized to 299 x 299 pixels as TensorFlow 1 does. Memory grows with B: give as many
        images at a time as fit.

        Raises:
          ValueError: If the images are not uint8, not of this shape, or there are none.
        """
        _check(images)
        x = apply_layers(self, STEM, network_input(images))
        for name in MIXED:
            x = getattr(self, name)(x)
            if name == "Mixed_6d":  # its channels begin with those of branch1x1
                spatial = x[..., :_SPATIAL_CHANNELS].reshape(x.shape[0], -1)
        pool3 = x.mean(axis=(1, 2))
        return InceptionFeatures(pool3, spatial, self.fc(pool3))


def network_input(images: Array) -> Array:
    """Images of 0 to 255, [B, H, W, 3], to 299 x 299 pixels of [-1, 1), float32."""
    x = _resize(_resize(images.astype(jnp.float32), axis=1), axis=2)
    return (x - 128) / 128


def _resize(x: Array, axis: int) -> Array:
    """Linear interpolation of one axis to 299 pixels; pixel i is at i * size / 299, not antialiased.

    The bilinear resize of TensorFlow 1, without the shift by half a pixel that others have.
    """
    # In float32 as there: exact positions would move pixels by up to 1e-5.
    positions = np.arange(_SIZE, dtype=np.float32) * np.float32(x.shape[axis] / _SIZE)
    start = jnp.take(x, positions.astype(np.int32), axis, mode="clip")
    stop = jnp.take(x, positions.astype(np.int32) + 1, axis, mode="clip")  # the last pixel, beyond it
    return start + (stop - start) * np.expand_dims(positions % 1, [i for i in range(4) if i != axis])


def _check(images: Array) -> None:
    if images.dtype != jnp.uint8:
        raise ValueError(
            f"The images are {images.dtype}, but Inception takes the uint8 values of a picture, 0 to 255; "
            "map float images in [0, 1] to them by (255 * images + 0.5).astype('uint8')."
        )
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(
            f"The images have shape {images.shape}, but Inception takes [B, H, W, 3] with at least one "
            "pixel; give a batch of RGB images, channels last."
        )
