"""Data: digits and checkerboard of the quick start, and the order in which examples come."""

from ._batches import Batches as Batches
from ._batches import epoch_indices as epoch_indices
from ._checkerboard import BOARD_HALF_WIDTH as BOARD_HALF_WIDTH
from ._checkerboard import SQUARES_PER_SIDE as SQUARES_PER_SIDE
from ._checkerboard import CheckerboardBatches as CheckerboardBatches
from ._checkerboard import checkerboard as checkerboard
from ._checkerboard import checkerboard_points as checkerboard_points
from ._checkerboard import in_white_square as in_white_square
from ._digits import Digits as Digits
from ._digits import digits as digits
from ._digits import to_unit_range as to_unit_range

__all__ = [
    "BOARD_HALF_WIDTH", "SQUARES_PER_SIDE", "Batches", "CheckerboardBatches", "Digits",
    "checkerboard", "checkerboard_points", "digits", "epoch_indices", "in_white_square",
    "to_unit_range",
]
