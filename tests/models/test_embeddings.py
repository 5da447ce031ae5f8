"""Features of times, grid positions and points."""

import jax
import numpy as np
import pytest

from gmflow_jax.models._embeddings import (
    batch_time,
    point_features,
    position_table,
    time_features,
)


def test_features_match_the_authors_in_float64(mlp_arrays):
    t = batch_time(mlp_arrays["t"] / np.float32(1000), 6)
    points = point_features(mlp_arrays["x"].reshape(-1, 2), 4, 0.005, 50.0)
    # Angles of the time reach 1000, where float32 resolves 6e-5; for points whole periods are removed.
    np.testing.assert_allclose(
        time_features(t, 16, 1), mlp_arrays["dbg_time_embedding_f64"], atol=5e-5
    )
    np.testing.assert_allclose(points, mlp_arrays["dbg_pos_embedding_f64"], atol=5e-7)


def test_gradient_of_point_features_is_that_of_the_angle():
    x = np.array([[0.3127, -3.1]], np.float32)
    features = lambda x: point_features(x, 4, 0.005, 50.0)  # noqa: E731
    jacobian = np.array(jax.jacobian(features)(x))[0, :, 0, :].sum(-1).reshape(2, 2, 4)
    sines, cosines = np.array(features(x)).reshape(2, 2, 4).transpose(1, 0, 2)
    rates = 2 * np.pi / np.geomspace(0.005, 50.0, 4)
    np.testing.assert_allclose(jacobian[:, 0] / rates, cosines, atol=1e-6)
    np.testing.assert_allclose(jacobian[:, 1] / rates, -sines, atol=1e-6)


def test_positions_of_another_grid_span_the_base_grid():
    base = position_table((4, 4), (4, 4), 16).reshape(4, 4, 16)
    fine = position_table((8, 4), (4, 4), 16).reshape(8, 4, 16)
    np.testing.assert_array_equal(fine[::2], base)


def test_first_half_of_the_positions_is_the_column():
    table = position_table((3, 5), (3, 5), 16).reshape(3, 5, 16)
    assert np.ptp(table[..., :8], axis=0).max() == 0
    assert np.ptp(table[..., 8:], axis=1).max() == 0
    assert len(np.unique(table.reshape(15, 16), axis=0)) == 15


def test_time_of_a_wrong_shape_is_refused():
    np.testing.assert_array_equal(batch_time(0.5, 3), [0.5, 0.5, 0.5])
    with pytest.raises(ValueError, match="one time for each sample"):
        batch_time(np.zeros((3, 1)), 3)
