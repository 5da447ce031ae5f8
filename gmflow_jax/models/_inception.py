"""The Inception network that FID, sFID and the Inception Score are computed with."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gmflow_jax.models._auto_axes import with_auto_axes
from gmflow_jax.models._inception_blocks import MIXED, STEM, Mixed, add_layers, apply_layers

_SIZE = 299  # height and width of the network's input
_NUM_CLASSES = 1008
_SPATIAL_CHANNELS = 7  # of 17 x 17 pixels: 2023 numbers, about as many as pool3's 2048
_BLOCKS = tuple(MIXED)
_SPATIAL_BLOCK = _BLOCKS.index("Mixed_6d")


class InceptionFeatures(NamedTuple):
    """Features of B images, all float32.

    Attributes:
      pool3: mean over all pixels of the last block, [B, 2048], for FID, precision and recall.
      spatial: first 7 channels of `Mixed_6d.branch1x1`, [B, 2023], in the order row, column, channel,
        for sFID.
      logits: class logits without the bias, [B, 1008], for the Inception Score.
    """

    pool3: jax.Array
    spatial: jax.Array
    logits: jax.Array


class InceptionV3(nnx.Module):
    """Inception network that maps uint8 images to the features of FID.

    It computes TensorFlow's graph of 2015-12-05, which FID is defined by and ADM's evaluator uses.
    torchvision's Inception is a different network. `interop.load_inception` loads the weights. Compile
    the network by `apply, params = functional(inception)` and `jax.jit(apply)`.

    Args:
      rngs: random number generators for the initial parameters.

    Source:
      Szegedy et al. 2016 (arXiv 1512.00567); Heusel et al. 2017 (arXiv 1706.08500).
    """

    def __init__(self, rngs: nnx.Rngs):
        channels = add_layers(self, STEM, 3, rngs)
        for name in MIXED:
            block = Mixed(name, channels, rngs)
            setattr(self, name, block)
            channels = block.channels
        precision = jax.lax.Precision.HIGHEST
        self.fc = nnx.Linear(channels, _NUM_CLASSES, use_bias=False, precision=precision, rngs=rngs)

    @with_auto_axes
    def __call__(self, images: jax.Array) -> InceptionFeatures:
        """Compute the features of images.

        Images are resized to 299 x 299 pixels as TensorFlow 1 does. Memory grows with B.

        Args:
          images: uint8 RGB images, [B, H, W, 3], of any height and width.

        Returns:
          The features.

        Raises:
          ValueError: if the images are not uint8, have another shape, or are empty.
        """
        _check(images)
        x = apply_layers(self, STEM, network_input(images))
        for name in _BLOCKS[: _SPATIAL_BLOCK + 1]:
            x = getattr(self, name)(x)
        # The first channels of the block are those of its branch1x1.
        spatial = x[..., :_SPATIAL_CHANNELS].reshape(x.shape[0], -1)
        for name in _BLOCKS[_SPATIAL_BLOCK + 1 :]:
            x = getattr(self, name)(x)
        pool3 = x.mean(axis=(1, 2))
        return InceptionFeatures(pool3, spatial, self.fc(pool3))


def network_input(images: jax.Array) -> jax.Array:
    """Resize images [B, H, W, 3] to 299 x 299 pixels and map 0 to 255 to [-1, 1), float32."""
    x = _resize(_resize(images.astype(jnp.float32), axis=1), axis=2)
    return (x - 128) / 128


def _resize(x: jax.Array, axis: int) -> jax.Array:
    """Resize one axis to 299 pixels by linear interpolation at i * size / 299, without antialiasing.

    This is the bilinear resize of TensorFlow 1. Other libraries shift positions by half a pixel.
    """
    # Positions in float32 as in TensorFlow: exact ones would differ from them by up to 1e-5 pixels.
    positions = np.arange(_SIZE, dtype=np.float32) * np.float32(x.shape[axis] / _SIZE)
    start = jnp.take(x, positions.astype(np.int32), axis, mode="clip")
    stop = jnp.take(x, positions.astype(np.int32) + 1, axis, mode="clip")  # beyond the edge, the last pixel
    return start + (stop - start) * np.expand_dims(positions % 1, [i for i in range(4) if i != axis])


def _check(images: jax.Array) -> None:
    if images.dtype != jnp.uint8:
        raise ValueError(
            f"The images are {images.dtype}, but Inception takes uint8 values from 0 to 255; "
            "convert float images in [0, 1] by (255 * images + 0.5).astype('uint8')."
        )
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(
            f"The images have shape {images.shape}, but Inception takes [B, H, W, 3] with at least one "
            "pixel; give a batch of RGB images, channels last."
        )
