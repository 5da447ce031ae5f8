"""Data: images and their latents, digits, the checkerboard, and the order of the examples."""

from gmflow_jax.data._batches import Batches, epoch_indices
from gmflow_jax.data._checkerboard import (
    BOARD_HALF_WIDTH,
    SQUARES_PER_SIDE,
    CheckerboardBatches,
    checkerboard,
    checkerboard_points,
    in_white_square,
)
from gmflow_jax.data._crop import center_crop
from gmflow_jax.data._digits import Digits, digits, to_unit_range
from gmflow_jax.data._images import read_images
from gmflow_jax.data._latents import FakeLatentBatches, LatentBatches, Latents
from gmflow_jax.data._metadata import (
    LatentMetadata,
    Shard,
    autoencoder_fingerprint,
    check_autoencoder,
    read_class_names,
)
from gmflow_jax.data._open import open_images
from gmflow_jax.data._prefetch import prefetch
from gmflow_jax.data._sources import ImageSource
from gmflow_jax.data._write import write_latents

__all__ = [
    "BOARD_HALF_WIDTH", "SQUARES_PER_SIDE", "Batches", "CheckerboardBatches", "Digits",
    "FakeLatentBatches", "ImageSource", "LatentBatches", "LatentMetadata",
    "Latents", "Shard", "autoencoder_fingerprint", "center_crop", "check_autoencoder",
    "checkerboard", "checkerboard_points", "digits", "epoch_indices", "in_white_square",
    "open_images", "prefetch", "read_class_names", "read_images", "to_unit_range", "write_latents",
]
