"""Rearrangement of blocks of pixels into channels, and back."""

import jax


def space_to_depth(x: jax.Array, block: int) -> jax.Array:
    """Move each `block` x `block` square of pixels into the channels.

    Args:
      x: images, [B, H, W, C].
      block: height and width of a square in pixels.

    Returns:
      [B, H / block, W / block, block * block * C]. The channels are in the order (row in the block,
      column in the block, channel).

    Raises:
      ValueError: if H or W is not divisible by `block`.

    Example:
      >>> import jax.numpy as jnp
      >>> from gmflow_jax import models
      >>> models.space_to_depth(jnp.arange(16).reshape(1, 4, 4, 1), 2)[0, 0].tolist()
      [[0, 1, 4, 5], [2, 3, 6, 7]]
    """
    _check_rank(x, "space_to_depth")
    batch, height, width, channels = x.shape
    if block < 1 or height % block or width % block:
        raise ValueError(
            f"space_to_depth got images of {height} x {width} pixels and block {block}, which does "
            "not divide both; pad or crop the images, or choose a block that divides both sides."
        )
    x = x.reshape(batch, height // block, block, width // block, block, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // block, width // block, block * block * channels)


def depth_to_space(x: jax.Array, block: int) -> jax.Array:
    """Move blocks of pixels from the channels back into space, the inverse of `space_to_depth`.

    Args:
      x: [B, h, w, block * block * C].
      block: height and width of a square in pixels.

    Returns:
      [B, h * block, w * block, C].

    Raises:
      ValueError: if the number of channels is not divisible by `block` squared.
    """
    _check_rank(x, "depth_to_space")
    batch, height, width, channels = x.shape
    if block < 1 or channels % block**2:
        raise ValueError(
            f"depth_to_space got {channels} channels and block {block}, but the number of channels must "
            f"be divisible by the {block**2} pixels of a block; use the block given to space_to_depth."
        )
    x = x.reshape(batch, height, width, block, block, channels // block**2)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * block, width * block, channels // block**2)


def _check_rank(x: jax.Array, name: str) -> None:
    if x.ndim != 4:
        raise ValueError(
            f"{name} got an array of shape {x.shape}, but it needs [B, H, W, C]; add missing axes."
        )
