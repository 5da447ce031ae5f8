"""The safe functions: right where defined, and with finite gradients where they are not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

from gmflow_jax import _numerics


@pytest.mark.parametrize(
    ("safe", "plain", "at_zero"),
    [(_numerics.safe_sqrt, np.sqrt, 0.0), (_numerics.safe_log, np.log, -np.inf)],
)
def test_safe_functions_of_one_number(safe, plain, at_zero):
    x = jnp.asarray([0.0, 1e-30, 0.5, 4.0])
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(safe)))(x)
    assert value[0] == at_zero and gradient[0] == 0
    np.testing.assert_allclose(value[1:], plain(np.asarray(x[1:])), rtol=1e-6)
    assert np.all(np.isfinite(gradient)) and np.all(gradient[1:] > 0)


def test_safe_divide():
    f = jax.jit(jax.vmap(jax.value_and_grad(_numerics.safe_divide, argnums=(0, 1))))
    value, gradient = f(jnp.asarray([3.0, 3.0, 0.0]), jnp.asarray([2.0, 0.0, 0.0]))
    np.testing.assert_array_equal(value, [1.5, 0.0, 0.0])
    np.testing.assert_array_equal(gradient[0], [0.5, 0.0, 0.0])
    np.testing.assert_array_equal(gradient[1], [-0.75, 0.0, 0.0])
    assert _numerics.safe_divide(jnp.ones(()), jnp.zeros(()), otherwise=7.0) == 7


def test_promote():
    bf16, wide = jnp.ones(2, jnp.bfloat16), np.ones(2)
    assert all(v.dtype == jnp.float32 for v in _numerics.promote(bf16, 0.5, 1, wide, np.float64(2.0)))
    with jax.enable_x64(True):
        # A Python number takes the others' dtype, and so does np.float64, which is one.
        assert all(v.dtype == jnp.float32 for v in _numerics.promote(bf16, 0.5, np.float64(2.0)))
        assert all(v.dtype == jnp.float64 for v in _numerics.promote(bf16, 0.5, {"x": wide})[:2])


def test_expand_time():
    assert _numerics.expand_time(jnp.ones(()), (3, 2)).shape == ()
    assert _numerics.expand_time(jnp.ones(3), (3, 2, 5)).shape == (3, 1, 1)
    for shape in ((2,), (3, 1), (3, 2, 5)):
        with pytest.raises(ValueError, match=r"s has shape .* Pass a scalar or shape \(3,\)\."):
            _numerics.expand_time(jnp.ones(shape), (3, 2, 5), "s")
    with pytest.raises(ValueError, match=r"batch axes \(\)"):
        _numerics.expand_time(jnp.ones(3), ())


def test_values_are_checked_only_where_they_are_known():
    _numerics.check_times_ordered(0.0, 0.0)
    _numerics.check_times_ordered(0.5, 0.5, allow_equal=True)
    with pytest.raises(ValueError, match=r"s = 0\.5 and t = 0\.5"):
        _numerics.check_times_ordered(0.5, 0.5)
    jax.jit(lambda t: _numerics.check_times_ordered(t, 2.0))(1.0)


@pytest.mark.parametrize("size", [1, 7, 16, 17, 20, 64, 135])
@pytest.mark.parametrize("axis", [0, -1, -2])
def test_sums_of_slices_are_sums(size, axis):
    shape = [3, 4, 5]
    shape[axis] = size
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)

    def term(part):
        index = [slice(None)] * 3
        index[axis] = part
        return jnp.asarray(x)[tuple(index)] ** 2

    found = _numerics.sum_slices(term, size, axis)
    np.testing.assert_allclose(found, np.sum(x.astype(np.float64) ** 2, axis), rtol=1e-6)
    largest = _numerics.fold_slices(jnp.maximum, term, size, axis)
    np.testing.assert_array_equal(largest, np.max(x**2, axis, keepdims=True))


def test_log_softmax_is_normalised_however_large_the_logits():
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(50, 8)).astype(np.float32) + np.float32([[1e4], [-1e4]] * 25)
    logits[:, 3] = -np.inf
    found = np.asarray(_numerics.log_softmax(jnp.asarray(logits)), np.float64)
    np.testing.assert_allclose(np.exp(found).sum(-1), 1, rtol=1e-6)
    np.testing.assert_allclose(found, special.log_softmax(logits.astype(np.float64), axis=-1), rtol=1e-6)
    transposed = _numerics.log_softmax(jnp.asarray(logits.T), axis=0)
    np.testing.assert_array_equal(transposed.T, found.astype(np.float32))
