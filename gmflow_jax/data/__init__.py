"""Data: images and their latents, digits, checkerboard, and the order in which examples come."""

from ._batches import Batches as Batches
from ._batches import epoch_indices as epoch_indices
from ._checkerboard import BOARD_HALF_WIDTH as BOARD_HALF_WIDTH
from ._checkerboard import SQUARES_PER_SIDE as SQUARES_PER_SIDE
from ._checkerboard import CheckerboardBatches as CheckerboardBatches
from ._checkerboard import checkerboard as checkerboard
from ._checkerboard import checkerboard_points as checkerboard_points
from ._checkerboard import in_white_square as in_white_square
from ._crop import center_crop as center_crop
from ._digits import Digits as Digits
from ._digits import digits as digits
from ._digits import to_unit_range as to_unit_range
from ._images import ImageBatches as ImageBatches
from ._images import read_images as read_images
from ._latents import FakeLatentBatches as FakeLatentBatches
from ._latents import LatentBatches as LatentBatches
from ._latents import Latents as Latents
from ._metadata import LatentMetadata as LatentMetadata
from ._metadata import Shard as Shard
from ._metadata import autoencoder_fingerprint as autoencoder_fingerprint
from ._metadata import check_autoencoder as check_autoencoder
from ._metadata import read_class_names as read_class_names
from ._open import open_images as open_images
from ._prefetch import prefetch as prefetch
from ._sources import ImageSource as ImageSource
from ._write import write_latents as write_latents

__all__ = [
    "BOARD_HALF_WIDTH", "SQUARES_PER_SIDE", "Batches", "CheckerboardBatches", "Digits",
    "FakeLatentBatches", "ImageBatches", "ImageSource", "LatentBatches", "LatentMetadata", "Latents",
    "Shard", "autoencoder_fingerprint", "center_crop", "check_autoencoder", "checkerboard",
    "checkerboard_points", "digits", "epoch_indices", "in_white_square", "open_images", "prefetch",
    "read_class_names", "read_images", "to_unit_range", "write_latents",
]
