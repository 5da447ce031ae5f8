"""space_to_depth and depth_to_space."""

import numpy as np
import pytest

from gmflow_jax.models import depth_to_space, space_to_depth


@pytest.mark.parametrize("block", [1, 2, 3])
def test_round_trip(block):
    x = np.random.default_rng(0).normal(size=(2, 6, 12, 3)).astype(np.float32)
    y = space_to_depth(x, block)
    assert y.shape == (2, 6 // block, 12 // block, 3 * block**2)
    np.testing.assert_array_equal(depth_to_space(y, block), x)


def test_channels_are_row_column_channel():
    x = np.arange(2 * 2 * 3).reshape(1, 2, 2, 3)
    np.testing.assert_array_equal(space_to_depth(x, 2)[0, 0, 0], np.arange(12))
    # The second block of a row starts at the pixel two columns on.
    x = np.arange(4 * 4).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(space_to_depth(x, 2)[0, 0, 1], [2, 3, 6, 7])


@pytest.mark.parametrize(
    ("function", "shape"),
    [(space_to_depth, (1, 3, 4, 1)), (space_to_depth, (4, 4, 1)), (depth_to_space, (1, 2, 2, 6))],
)
def test_shapes_that_do_not_fit_are_refused(function, shape):
    with pytest.raises(ValueError, match="got"):
        function(np.zeros(shape), 2)
