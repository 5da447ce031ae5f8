"""GMMLP against the authors' 2-D network, and its options."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gmflow_jax.models import GMMLP, GMMLPConfig, abstract, functional, init_params
from tests.helpers import assert_trees_close, relative_error

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")

TOLERANCE = 1e-5  # the reference's own float32 error is 7.1e-6
FIELDS = ("means", "log_weights", "log_std")
SMALL = GMMLPConfig(num_components=3, embed_dim=8, width=16, depth=2)


@pytest.mark.parametrize("suffix", ["", "_f64"])
def test_outputs_match_the_authors(mlp_params, mlp_arrays, suffix):
    config, params = mlp_params
    x_t, t = mlp_arrays["x"].reshape(-1, 2), mlp_arrays["t"] / np.float32(1000)
    q = abstract(GMMLP, config)[0](params, x_t, t)
    for field in FIELDS:
        reference = mlp_arrays[f"out_{field}{suffix}"]
        assert relative_error(getattr(q, field).reshape(reference.shape), reference) < TOLERANCE, field


@pytest.mark.parametrize("num_dims", [1, 2, 5])
def test_shapes_and_types(num_dims):
    config = dataclasses.replace(SMALL, num_dims=num_dims, dtype="bfloat16")
    apply, params = functional(GMMLP(config, nnx.Rngs(0)))
    x_t = jax.random.normal(jax.random.key(0), (7, num_dims))
    q = apply(params, x_t, 0.5)
    assert (q.means.shape, q.log_weights.shape, q.log_std.shape) == ((7, 3, num_dims), (7, 3), (7,))
    assert {leaf.dtype for leaf in jax.tree.leaves(q)} == {jnp.dtype("float32")}
    # Initially the weights are uniform and the variance is 1, but the components differ.
    np.testing.assert_allclose(q.log_weights, -np.log(3), rtol=1e-6)
    np.testing.assert_array_equal(q.log_std, 0.0)
    assert np.std(q.means, axis=1).min() > 0


def test_jitted_and_eager_agree_and_gradients_are_finite():
    apply, params = functional(GMMLP(SMALL, nnx.Rngs(0)))
    x_t, t = jax.random.normal(jax.random.key(0), (4, 2)), jnp.linspace(0.0, 1.0, 4)
    q = apply(params, x_t, t)
    jitted = jax.jit(apply)(params, x_t, t)
    assert_trees_close(jitted, q, rtol=0, atol=1e-5)
    grad = jax.grad(lambda x: apply(params, x, t).means.sum())(x_t)
    assert np.isfinite(grad).all() and np.abs(grad).max() > 0


def test_constant_log_std_has_no_parameters():
    config = dataclasses.replace(SMALL, constant_log_std=-0.3)
    apply, params = functional(GMMLP(config, nnx.Rngs(0)))
    assert set(params) == {"trunk", "means", "log_weights"}
    np.testing.assert_allclose(apply(params, jnp.zeros((2, 2)), 0.1).log_std, -0.3, rtol=1e-6)


def test_initial_bias_spreads_the_means():
    config = dataclasses.replace(SMALL, num_components=500, means_bias_std=1.5)
    params = init_params(GMMLP, config, jax.random.key(0))
    assert params["means"]["bias"].std() == pytest.approx(1.5, rel=0.1)
    params = init_params(GMMLP, SMALL, jax.random.key(0))
    np.testing.assert_array_equal(params["means"]["bias"], 0.0)


@pytest.mark.parametrize(("x_shape", "t_shape"), [((3, 3), ()), ((2,), ()), ((3, 2), (2,))])
def test_wrong_inputs_are_refused(x_shape, t_shape):
    model = nnx.eval_shape(lambda: GMMLP(SMALL, nnx.Rngs(0)))
    with pytest.raises(ValueError, match="give"):
        model(jnp.zeros(x_shape), jnp.zeros(t_shape))
