"""The checkerboard equals the authors' points for given draws, and is uniform on its squares."""

from pathlib import Path

import jax
import numpy as np
import pytest

from gmflow_jax import data

GOLDEN = Path(__file__).parents[1] / "golden" / "checkerboard" / "checkerboard.npz"


def test_points_equal_the_authors_for_given_draws():
    golden = np.load(GOLDEN)
    points = data.checkerboard_points(golden["square_index"], golden["uniform"])
    np.testing.assert_array_equal(points, golden["samples"])


def test_constants_equal_the_authors():
    golden = np.load(GOLDEN)
    assert golden["n_rc"] == data.SQUARES_PER_SIDE and golden["scale"] == data.BOARD_HALF_WIDTH
    assert golden["shift"].tolist() == [0, 0] and golden["rotation_degrees"] == 0


def test_samples_fill_the_eight_squares_evenly():
    points = np.asarray(data.checkerboard(jax.random.key(0), 80_000))
    assert points.shape == (80_000, 2) and points.dtype == np.float32
    assert data.in_white_square(points).all()
    squares, counts = np.unique(np.floor(points / 2), axis=0, return_counts=True)
    assert len(squares) == 8 and (squares.sum(1) % 2 == 0).all()
    assert np.abs(counts - 10_000).max() < 5 * np.sqrt(10_000 * 7 / 8)  # 5 standard deviations
    place = np.mod(points, 2) / 2
    np.testing.assert_allclose(place.mean(0), 0.5, atol=5 * np.sqrt(1 / 12 / 80_000))
    np.testing.assert_allclose(place.var(0), 1 / 12, atol=2e-3)


def test_membership_of_known_points():
    white = [[-3, -3], [1, 1], [-1, -1], [3, 3], [-3, 1], [-4, -4], [0, 0]]
    black = [[-3, -1], [3, 1], [5, 5], [-5, -3], [4, 4], [np.nan, 0], [np.inf, 0]]
    assert data.in_white_square(white).all()
    assert not data.in_white_square(black).any()
    assert data.in_white_square(np.reshape(white + black, (7, 2, 2))).shape == (7, 2)


def test_batches_are_fresh_repeatable_and_traceable():
    batch_fn = data.CheckerboardBatches(batch_size=16, seed=2)
    first, second = batch_fn(0)["x_0"], batch_fn(1)["x_0"]
    assert (first != second).all()
    np.testing.assert_array_equal(batch_fn(0)["x_0"], first)
    np.testing.assert_array_equal(jax.jit(batch_fn)(1)["x_0"], second)
    assert (data.CheckerboardBatches(16, seed=3)(0)["x_0"] != first).all()


def test_zero_samples_are_refused():
    with pytest.raises(ValueError, match="at least 1"):
        data.checkerboard(jax.random.key(0), 0)


def test_row_slices_equal_rows_of_the_whole_batch():
    batch_fn = data.CheckerboardBatches(batch_size=8, seed=2)
    for rows in (slice(4, 8), [3, 0]):
        np.testing.assert_array_equal(batch_fn(1, rows)["x_0"], np.asarray(batch_fn(1)["x_0"])[rows])
