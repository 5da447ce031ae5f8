"""The safe functions are right where they are defined, and have finite gradients elsewhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import _safe


@pytest.mark.parametrize(
    ("safe", "plain", "at_zero"),
    [(_safe.safe_sqrt, np.sqrt, 0.0), (_safe.safe_log, np.log, -np.inf)],
)
def test_safe_functions_of_one_number(safe, plain, at_zero):
    x = jnp.asarray([0.0, 1e-30, 0.5, 4.0])
    value, gradient = jax.jit(jax.vmap(jax.value_and_grad(safe)))(x)
    assert value[0] == at_zero and gradient[0] == 0
    np.testing.assert_allclose(value[1:], plain(np.asarray(x[1:])), rtol=1e-6)
    assert np.all(np.isfinite(gradient)) and np.all(gradient[1:] > 0)


def test_safe_divide_is_zero_where_the_divisor_is():
    f = jax.jit(jax.vmap(jax.value_and_grad(_safe.safe_divide, argnums=(0, 1))))
    value, gradient = f(jnp.asarray([3.0, 3.0, 0.0]), jnp.asarray([2.0, 0.0, 0.0]))
    np.testing.assert_array_equal(value, [1.5, 0.0, 0.0])
    np.testing.assert_array_equal(gradient[0], [0.5, 0.0, 0.0])
    np.testing.assert_array_equal(gradient[1], [-0.75, 0.0, 0.0])
    assert _safe.safe_divide(jnp.ones(()), jnp.zeros(()), otherwise=7.0) == 7
