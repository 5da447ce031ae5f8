"""Scores of the study: endpoint error, energy distance, and statistics of checkerboard points."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gmflow_jax import evaluation
from gmflow_jax.data import BOARD_HALF_WIDTH


def endpoint_error(samples: np.ndarray, reference: np.ndarray) -> float:
    """Compute the RMS of samples [N, D] minus a reference [N, D], over points and channels."""
    return float(np.sqrt(np.mean((np.asarray(samples, np.float64) - reference) ** 2)))


def energy_distance_to(reference: np.ndarray) -> Callable[[np.ndarray], float]:
    """Return a function that measures the energy distance of samples to a reference.

    The distance is 2 E|X - Y| - E|X - X'| - E|Y - Y'|. The estimate is unbiased, because pairs of a point
    with itself are left out: for equal distributions its mean is 0, and it can be negative.

    Args:
      reference: points [M, D].

    Returns:
      energy_distance(samples [N, D]). It raises ValueError if the shapes do not fit.

    Source:
      Szekely and Rizzo, Energy statistics (2013).
    """
    reference = np.asarray(reference, np.float32)
    within_reference = _mean_within(reference)

    def energy_distance(samples: np.ndarray) -> float:
        samples = np.asarray(samples, np.float32)
        if samples.ndim != 2 or samples.shape[1:] != reference.shape[1:]:
            raise ValueError(
                f"The samples have shape {samples.shape}, but the reference is {reference.shape}: "
                "both must be [N, D] with the same D."
            )
        across = _sum_of_distances(samples, reference) / (len(samples) * len(reference))
        return 2 * across - _mean_within(samples) - within_reference

    return energy_distance


def _mean_within(x: np.ndarray) -> float:
    return _sum_of_distances(x, x) / (len(x) * (len(x) - 1))


def _sum_of_distances(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.asarray(_row_sums(x, y), np.float64).sum())


@jax.jit
def _row_sums(x: jax.Array, y: jax.Array) -> jax.Array:
    """Compute the sum over j of |x_i - y_j| for each i, in blocks of rows."""
    square_y = jnp.sum(y**2, -1)

    def row(x_i):
        # A matrix product is five times as fast in 16-D. The distance of a point to itself can then be 1e-3
        # instead of 0, which is negligible in a sum over thousands of points.
        return jnp.sqrt(jnp.maximum(jnp.sum(x_i**2) + square_y - 2 * (y @ x_i), 0.0)).sum()

    return jax.lax.map(row, x, batch_size=250)


def board_scores(points: np.ndarray) -> dict[str, float]:
    """Compare points with the uniform distribution on the checkerboard.

    Args:
      points: [N, 2].

    Returns:
      inside, total_variation: see `evaluation.checkerboard_scores`.
      spread: mean squared radius, relative to that of the board.
      centre: share with |x| and |y| below 2, relative to the share of the board there.
      edge: share with |x| or |y| above 3, also off the board, relative to the share of the board there.
      off_board: share with |x| or |y| above 4.
    """
    points = np.asarray(points, np.float64)
    scores = evaluation.checkerboard_scores(points)
    reach = np.abs(points).max(1) / BOARD_HALF_WIDTH
    return {
        **scores._asdict(),
        # Each coordinate of a uniform point on the white squares is uniform, with variance half_width^2 / 3.
        "spread": float((points**2).sum(1).mean() / (2 / 3 * BOARD_HALF_WIDTH**2)),
        "centre": float((reach < 0.5).mean() / 0.25),
        "edge": float((reach > 0.75).mean() / (1 - 0.75**2)),
        "off_board": float((reach > 1).mean()),
    }
