"""Trading space for channels, so that one mixture can cover a block of pixels."""

from jax import Array


def space_to_depth(x: Array, block: int) -> Array:
    """Moves each `block` x `block` square of pixels into the channels.

    `x` is [B, H, W, C]; the result is [B, H / block, W / block, block * block * C], whose channels
    are ordered (row in the block, column in the block, channel). Raises ValueError if H or W is not
    divisible by `block`.
    """
    _check_rank(x, "space_to_depth")
    batch, height, width, channels = x.shape
    if block < 1 or height % block or width % block:
        raise ValueError(
            f"space_to_depth got images of {height} x {width} pixels and block {block}, which does "
            "not divide them; pad or crop the images, or choose a block that divides both sides."
        )
    x = x.reshape(batch, height // block, block, width // block, block, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height // block, width // block, block * block * channels)


def depth_to_space(x: Array, block: int) -> Array:
    """Undoes `space_to_depth`: [B, h, w, block * block * C] to [B, h * block, w * block, C].

    Raises ValueError if the number of channels is not divisible by `block` squared.
    """
    _check_rank(x, "depth_to_space")
    batch, height, width, channels = x.shape
    if block < 1 or channels % block**2:
        raise ValueError(
            f"depth_to_space got {channels} channels and block {block}, but a block holds "
            f"{block**2} pixels, which does not divide them; use the block given to space_to_depth."
        )
    x = x.reshape(batch, height, width, block, block, channels // block**2)
    x = x.transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(batch, height * block, width * block, channels // block**2)


def _check_rank(x: Array, name: str) -> None:
    if x.ndim != 4:
        raise ValueError(
            f"{name} got an array of shape {x.shape}, but it needs [B, H, W, C]; add missing axes."
        )
