"""Data: images and their latents, digits, checkerboard, and the order in which examples come."""

from gmflow_jax.data._batches import Batches as Batches
from gmflow_jax.data._batches import epoch_indices as epoch_indices
from gmflow_jax.data._checkerboard import BOARD_HALF_WIDTH as BOARD_HALF_WIDTH
from gmflow_jax.data._checkerboard import SQUARES_PER_SIDE as SQUARES_PER_SIDE
from gmflow_jax.data._checkerboard import CheckerboardBatches as CheckerboardBatches
from gmflow_jax.data._checkerboard import checkerboard as checkerboard
from gmflow_jax.data._checkerboard import checkerboard_points as checkerboard_points
from gmflow_jax.data._checkerboard import in_white_square as in_white_square
from gmflow_jax.data._crop import center_crop as center_crop
from gmflow_jax.data._digits import Digits as Digits
from gmflow_jax.data._digits import digits as digits
from gmflow_jax.data._digits import to_unit_range as to_unit_range
from gmflow_jax.data._images import ImageBatches as ImageBatches
from gmflow_jax.data._images import read_images as read_images
from gmflow_jax.data._latents import FakeLatentBatches as FakeLatentBatches
from gmflow_jax.data._latents import LatentBatches as LatentBatches
from gmflow_jax.data._latents import Latents as Latents
from gmflow_jax.data._metadata import LatentMetadata as LatentMetadata
from gmflow_jax.data._metadata import Shard as Shard
from gmflow_jax.data._metadata import autoencoder_fingerprint as autoencoder_fingerprint
from gmflow_jax.data._metadata import check_autoencoder as check_autoencoder
from gmflow_jax.data._metadata import read_class_names as read_class_names
from gmflow_jax.data._open import open_images as open_images
from gmflow_jax.data._prefetch import prefetch as prefetch
from gmflow_jax.data._sources import ImageSource as ImageSource
from gmflow_jax.data._write import write_latents as write_latents

__all__ = [
    "BOARD_HALF_WIDTH", "SQUARES_PER_SIDE", "Batches", "CheckerboardBatches", "Digits",
    "FakeLatentBatches", "ImageBatches", "ImageSource", "LatentBatches", "LatentMetadata", "Latents",
    "Shard", "autoencoder_fingerprint", "center_crop", "check_autoencoder", "checkerboard",
    "checkerboard_points", "digits", "epoch_indices", "in_white_square", "open_images", "prefetch",
    "read_class_names", "read_images", "to_unit_range", "write_latents",
]
