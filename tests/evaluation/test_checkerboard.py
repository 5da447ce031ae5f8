"""Checkerboard scores of points with known scores, and the floor that exact samples reach."""

import jax
import numpy as np
import pytest

from gmflow_jax.data import checkerboard, in_white_square
from gmflow_jax.evaluation import checkerboard_floor, checkerboard_scores

CENTRES = np.stack(np.meshgrid(*[np.arange(-3.75, 4, 0.5)] * 2), -1).reshape(-1, 2)  # 256 cells
WHITE = CENTRES[in_white_square(CENTRES)]
OUTSIDE = np.full_like(WHITE, 4.5)


@pytest.mark.parametrize(
    ("points", "inside", "total_variation"),
    [
        (WHITE, 1, 0),
        (CENTRES, 0.5, 0.5),
        (CENTRES[~in_white_square(CENTRES)], 0, 1),
        (OUTSIDE, 0, 1),
        (np.concatenate([WHITE, OUTSIDE]), 0.5, 0.5),
        (np.tile(WHITE[:1], (100, 1)), 1, 127 / 128),  # share alone would call this perfect
        (WHITE[:64], 1, 0.5),
        ([[4.0, 4.0]], 0, 1),  # the upper rim is off the board
    ],
)
def test_scores_of_known_points(points, inside, total_variation):
    scores = checkerboard_scores(points)
    assert scores == pytest.approx((inside, total_variation), abs=1e-14)


def test_cells_align_with_the_squares():
    # Points anywhere in their cell give the same scores as its centre.
    jitter = np.random.default_rng(0).uniform(-0.2499, 0.2499, WHITE.shape)
    assert checkerboard_scores(WHITE + jitter) == pytest.approx((1, 0), abs=1e-14)


def test_floor_equals_that_of_multinomial_counts():
    # Each of the 128 cells' shares is normal about 1/128: E|p - u| = sqrt(2 u (1 - u) / (pi N)).
    mean, std = checkerboard_floor(20_000, num_repeats=8)
    expected = 64 * np.sqrt(2 / 128 * (127 / 128) / (np.pi * 20_000))
    assert mean == pytest.approx(expected, rel=0.05)
    assert 0 < std < 0.1 * mean


def test_exact_data_score_one_and_the_floor():
    scores = checkerboard_scores(checkerboard(jax.random.key(5), 50_000))
    assert scores.inside == 1.0
    assert scores.total_variation == pytest.approx(0.0201, rel=0.2)


@pytest.mark.parametrize("points", [np.zeros((0, 2)), np.zeros((4, 3)), np.full((4, 2), np.nan)])
def test_bad_points_are_refused(points):
    with pytest.raises(ValueError, match=r"; .*\.$"):
        checkerboard_scores(points)
