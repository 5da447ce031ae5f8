"""Scores of points on the checkerboard: the share inside, and the total variation from uniform."""

from typing import NamedTuple

import jax
import numpy as np

from gmflow_jax.data import BOARD_HALF_WIDTH, SQUARES_PER_SIDE, checkerboard, in_white_square
from gmflow_jax.evaluation._checks import finite

_CELLS_PER_SIDE = 16  # a multiple of SQUARES_PER_SIDE, so that no cell is partly white


class CheckerboardScores(NamedTuple):
    """Scores of points on the checkerboard.

    Attributes:
      inside: share of the points that lie in white squares.
      total_variation: total variation from the uniform distribution, in [0, 1].
    """

    inside: float
    total_variation: float


def checkerboard_scores(points) -> CheckerboardScores:
    r"""Score points against the uniform distribution on the white squares.

    The total variation is $\frac{1}{2} \sum |p - u|$ over a 16 x 16 grid on the board and one bin for all
    points off the board; u is exact, 1/128 in each cell of a white square and 0 elsewhere. The share inside
    alone says little, since one repeated point can score 1. Exact samples have a total variation above 0
    too, see `checkerboard_floor`.

    Args:
      points: [N, 2].

    Returns:
      The scores.

    Raises:
      ValueError: if a value is NaN or infinite, the shape is another one, or there are no points.
    """
    points = finite(points, "points")
    if points.ndim != 2 or points.shape[1] != 2 or not len(points):
        raise ValueError(
            f"The points have shape {points.shape}, but the board needs [N, 2] with N >= 1; "
            "drop other axes."
        )
    cells = np.floor((points / BOARD_HALF_WIDTH + 1) * (_CELLS_PER_SIDE / 2))
    on_board = ((cells >= 0) & (cells < _CELLS_PER_SIDE)).all(1)
    row, column = cells[on_board].astype(int).T
    counts = np.bincount(row * _CELLS_PER_SIDE + column, minlength=_CELLS_PER_SIDE**2)
    share = counts / len(points)
    off_board = 1 - on_board.mean()
    total_variation = (np.abs(share - _uniform_share()).sum() + off_board) / 2
    return CheckerboardScores(float(in_white_square(points).mean()), float(total_variation))


def checkerboard_floor(
    num_samples: int, num_repeats: int = 8, seed: int = 0
) -> tuple[float, float]:
    """Measure the total variation of exact samples, below which no sampler can be expected to score.

    It falls as 1 / sqrt(num_samples); it is 0.014 for 100,000.

    Args:
      num_samples: samples in each draw.
      num_repeats: number of draws.
      seed: seed of the draws.

    Returns:
      Mean and standard deviation (divisor n) over the draws.
    """
    keys = jax.random.split(jax.random.key(seed), num_repeats)
    scores = [checkerboard_scores(checkerboard(key, num_samples)).total_variation for key in keys]
    return float(np.mean(scores)), float(np.std(scores))


def _uniform_share() -> np.ndarray:
    """Return the probability of each cell [256] under the uniform distribution on the white squares."""
    square = np.arange(_CELLS_PER_SIDE) // (_CELLS_PER_SIDE // SQUARES_PER_SIDE)
    white = (square[:, None] + square) % 2 == 0
    return (white / white.sum()).ravel()
