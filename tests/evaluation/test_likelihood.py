"""Bits per dimension of densities whose entropy is known."""

import numpy as np
import pytest

from gmflow_jax.evaluation import bits_per_dim


def test_known_densities():
    uniform = np.full((2, 3), -6 * np.log(2))  # on a cube [0, 1/2]^6 the density is 2^6
    np.testing.assert_allclose(bits_per_dim(uniform, 6), np.full((2, 3), -1.0), rtol=1e-15)
    # The entropy of a standard normal in 10-D, 5 log(2 pi e), is 2.0471 bits for each dimension.
    assert bits_per_dim(14.189385332046727, 10) == pytest.approx(2.047095585180641, rel=1e-14)


def test_float32_becomes_float64():
    assert bits_per_dim(np.ones(3, np.float32), 1).dtype == np.float64


@pytest.mark.parametrize(
    ("nll", "num_dims", "said"),
    [([1.0], 0, "num_dims is 0"), ([1.0, np.nan], 2, "1 of 2"), ([-np.inf], 2, "infinite")],
)
def test_bad_input_is_refused(nll, num_dims, said):
    with pytest.raises(ValueError, match=rf"{said}.*\.$"):
        bits_per_dim(nll, num_dims)
