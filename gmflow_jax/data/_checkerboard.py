"""The 2-D checkerboard: uniform on the eight white squares of a 4 x 4 board over [-4, 4]^2.

This is the distribution of the authors' checkerboard experiment, whose shift and rotation are zero.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gmflow_jax.data._batches import Rows

SQUARES_PER_SIDE = 4
BOARD_HALF_WIDTH = 4.0
# (row, column) of the white squares, in the authors' order, so that their draws give their points.
_WHITE_SQUARES = tuple(
    (float(i), float(j))
    for i in range(SQUARES_PER_SIDE) for j in range(SQUARES_PER_SIDE) if (i + j) % 2 == 0
)


def checkerboard(key: jax.Array, num_samples: int) -> jax.Array:
    """Draw points uniformly from the white squares.

    Args:
      key: random key.
      num_samples: number of points, at least 1.

    Returns:
      float32 [num_samples, 2].

    Raises:
      ValueError: if `num_samples` is below 1.
    """
    if num_samples < 1:
        raise ValueError(f"num_samples is {num_samples}; give at least 1.")
    square_key, uniform_key = jax.random.split(key)
    square_index = jax.random.randint(square_key, (num_samples,), 0, len(_WHITE_SQUARES))
    return checkerboard_points(square_index, jax.random.uniform(uniform_key, (num_samples, 2)))


def checkerboard_points(square_index, uniform) -> jax.Array:
    """Map square numbers and places within a square to points.

    Args:
      square_index: int [N] in 0..7, numbers of white squares.
      uniform: [N, 2] in [0, 1), places within a square.

    Returns:
      [N, 2].
    """
    corners = jnp.asarray(_WHITE_SQUARES, dtype=jnp.float32)[jnp.asarray(square_index)]
    return ((corners + jnp.asarray(uniform)) * (2 / SQUARES_PER_SIDE) - 1) * BOARD_HALF_WIDTH


def in_white_square(points) -> np.ndarray:
    """Tell which points lie in a white square.

    A square contains its lower edges and not its upper ones. NaN lies in no square.

    Args:
      points: [..., 2].

    Returns:
      bool [...].
    """
    unit = np.asarray(points, np.float64) / BOARD_HALF_WIDTH
    square = np.floor((unit + 1) * (SQUARES_PER_SIDE / 2))
    on_board = ((square >= 0) & (square < SQUARES_PER_SIDE)).all(-1)
    parity = np.where(on_board, square.sum(-1), 0) % 2  # points off the board may be NaN or infinite
    return on_board & (parity == 0)


@dataclasses.dataclass(frozen=True)
class CheckerboardBatches:
    """A `batch_fn(step, rows=None)` of fresh points `{"x_0": [batch_size, 2]}`.

    The points depend on (seed, step) only. `step` may be traced, so that a compiled training step can
    include the draw. `rows` selects rows of the batch.

    Attributes:
      batch_size: points in a batch.
      seed: seed of the draws.
    """

    batch_size: int
    seed: int = 0

    def __call__(self, step, rows: Rows = None) -> dict[str, jax.Array]:
        key = jax.random.fold_in(jax.random.key(self.seed), step)
        points = checkerboard(key, self.batch_size)
        if rows is None:
            return {"x_0": points}
        return {"x_0": points[rows if isinstance(rows, slice) else np.asarray(rows)]}
