"""The containers are pytrees, and functions refuse arrays of shapes that do not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import gm
from tests.helpers import assert_message_names, relative_error


def test_containers_are_frozen_pytrees():
    q = gm.GaussianMixture(jnp.ones((2, 3, 4)), jnp.full((2, 3), -jnp.log(3.0)), jnp.zeros(2))
    g = gm.Gaussian(jnp.ones((2, 4)), jnp.ones(2))
    assert len(jax.tree.leaves(q)) == 3 and len(jax.tree.leaves(g)) == 2
    doubled = jax.jit(lambda q: jax.tree.map(lambda v: 2 * v, q))(q)
    assert isinstance(doubled, gm.GaussianMixture)
    np.testing.assert_array_equal(doubled.means, 2 * np.ones((2, 3, 4)))
    for value, field in ((q, "means"), (g, "mean")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(value, field, 0)


def test_a_gaussian_equals_a_mixture_of_one_component(random_mixture):
    q = random_mixture(0, (5,), 1, 3)
    g = gm.Gaussian(q.means[:, 0], jnp.exp(2 * q.log_std))
    x = jnp.ones((5, 3))
    every = jax.jit(lambda p: (gm.log_prob(p, x), gm.covariance(p), gm.mean(p)))
    for a, b in zip(every(g), every(q), strict=True):
        assert relative_error(a, b) < 1e-6


def test_log_std_may_be_a_scalar_or_have_the_rank_of_the_batch(random_mixture):
    q = random_mixture(1, (2, 3), 4, 2, log_std=0.1)
    x = jnp.ones((2, 3, 2))
    log_prob = jax.jit(gm.log_prob)
    expected = log_prob(q, x)
    for log_std in (jnp.asarray(0.1), jnp.full((2, 1), 0.1), jnp.full((1, 1), 0.1)):
        other = log_prob(gm.GaussianMixture(q.means, q.log_weights, log_std), x)
        np.testing.assert_allclose(other, expected, rtol=1e-6)


def test_float64_input_gives_float64_results(x64, random_mixture):
    q = random_mixture(2, (3,), 2, 2)
    wide, narrow = np.ones((3, 2)), np.ones((3, 2), np.float32)
    results = jax.eval_shape(
        lambda: {
            "float32": gm.mean(q),
            "x": gm.log_prob(q, wide),
            "factor": gm.multiply(q, gm.Gaussian(wide, 1.0)).means,
            "center": gm.tilt(q, narrow, 0.1, center=wide).means,
        }
    )
    assert results.pop("float32").dtype == jnp.float32
    assert all(result.dtype == jnp.float64 for result in results.values())


@pytest.mark.parametrize(
    ("means", "log_weights", "log_std", "given"),
    [
        ((2, 3, 4), (2, 4), (2,), "(2, 4)"),  # component and channel axes exchanged
        ((2, 3, 4), (2,), (2,), "(2,)"),
        ((4,), (4,), (), "(4,)"),
        ((2, 5, 3, 4), (2, 5, 3), (2,), "(2,)"),  # one value a sample, without the axes of size 1
        ((2, 3, 4), (2, 3), (2, 3), "(2, 3)"),  # one value a component
        ((2, 3, 4), (2, 3), (3,), "(3,)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(means, log_weights, log_std, given):
    q = gm.GaussianMixture(jnp.ones(means), jnp.zeros(log_weights), jnp.zeros(log_std))
    with pytest.raises(ValueError) as error:
        gm.mean(q)
    assert_message_names(error, given)


def test_a_variance_that_does_not_fit_is_refused():
    with pytest.raises(ValueError) as error:
        gm.log_prob(gm.Gaussian(jnp.ones((2, 5, 4)), jnp.ones(2)), jnp.ones((2, 5, 4)))
    assert_message_names(error, "var", "(2,)", "(2, 5)")


def test_arrays_are_not_mixtures():
    with pytest.raises(TypeError) as error:
        gm.mean(jnp.ones((2, 3)))
    assert_message_names(error, "GaussianMixture")
