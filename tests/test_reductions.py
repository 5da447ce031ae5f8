"""Sums, maxima and softmax by slices equal those of numpy and scipy."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from gmflow_jax import _reductions


@pytest.mark.parametrize("size", [1, 7, 16, 17, 20, 64, 135])
@pytest.mark.parametrize("axis", [0, -1, -2])
def test_sums_by_slices_equal_numpy(size, axis):
    shape = [3, 4, 5]
    shape[axis] = size
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def term(part):
        index = [slice(None)] * 3
        index[axis] = part
        return jnp.asarray(x)[tuple(index)] ** 2

    found = _reductions.sum_slices(term, size, axis)
    np.testing.assert_allclose(found, np.sum(x.astype(np.float64) ** 2, axis), rtol=1e-6)
    largest = _reductions.fold_slices(jnp.maximum, term, size, axis)
    np.testing.assert_array_equal(largest, np.max(x**2, axis, keepdims=True))


def test_log_softmax_is_normalised_however_large_the_logits():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(50, 8)).astype(np.float32) + np.float32([[1e4], [-1e4]] * 25)
    logits[:, 3] = -np.inf
    found = np.asarray(_reductions.log_softmax(jnp.asarray(logits)), np.float64)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(found, special.log_softmax(logits.astype(np.float64), axis=-1), rtol=1e-6)
    transposed = _reductions.log_softmax(jnp.asarray(logits.T), axis=0)
    np.testing.assert_array_equal(transposed.T, found.astype(np.float32))
