"""Dropped components and temperature."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import gm
from tests.helpers import all_finite

pytestmark = pytest.mark.usefixtures("fast_compile")


def test_dropped_components_are_those_of_the_draw(random_mixture):
    q = random_mixture(0, (64, 2, 3), 4, 2)
    dropped = gm.drop_components(jax.random.key(1), q, 0.5)
    weights, old = np.exp(dropped.log_weights), np.exp(q.log_weights)
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-6)
    kept = weights > 0
    np.testing.assert_array_equal(kept, np.broadcast_to(kept[:, :1, :1], kept.shape))  # one draw per sample
    kept_weight = np.where(kept, old, 0)
    np.testing.assert_allclose(weights, kept_weight / kept_weight.sum(-1, keepdims=True), rtol=1e-5)
    share = 1 - kept[:, 0, 0].mean()
    # All four would be dropped in 1 of 16 samples, which stay whole.
    assert abs(share - (0.5 - 1 / 16)) < 4 * 0.5 / np.sqrt(64 * 4)
    assert dropped.means is q.means and dropped.log_std is q.log_std


def test_a_sample_is_never_emptied(random_mixture):
    q = random_mixture(0, (500,), 2, 1)
    dropped = gm.drop_components(jax.random.key(0), q, 0.999)
    np.testing.assert_allclose(np.exp(dropped.log_weights).sum(-1), 1, rtol=1e-6)
    # A pixel whose kept components all have weight 0 stays as it is; so does K = 1.
    log_weights = jnp.full((500, 2), -jnp.inf).at[:, 0].set(0.0)
    one = gm.GaussianMixture(jnp.zeros((500, 2, 1)), log_weights, jnp.zeros(500))
    np.testing.assert_array_equal(gm.drop_components(jax.random.key(0), one, 0.5).log_weights, log_weights)
    single = random_mixture(0, (5,), 1, 1)
    np.testing.assert_allclose(
        gm.drop_components(jax.random.key(0), single, 0.9).log_weights, single.log_weights, atol=1e-7
    )


def test_a_rate_of_zero_and_keys_for_each_sample(random_mixture):
    q = random_mixture(0, (3, 2), 4, 2)
    np.testing.assert_allclose(
        gm.drop_components(jax.random.key(0), q, 0.0).log_weights, q.log_weights, atol=1e-6
    )
    keys = jax.random.split(jax.random.key(0), 3)
    together = gm.drop_components(keys, q, 0.5).log_weights
    for i in range(3):
        one = jax.tree.map(lambda a, i=i: a[i : i + 1], q)
        alone = gm.drop_components(keys[i : i + 1], one, 0.5)
        np.testing.assert_array_equal(alone.log_weights[0], together[i])
    per_pixel = gm.drop_components(jax.random.key(3), random_mixture(0, (1, 40), 4, 2), 0.5, sample_axes=())
    kept = np.isfinite(per_pixel.log_weights)[0]
    assert len(np.unique(kept, axis=0)) > 4


def test_temperature_is_that_of_the_definition(random_mixture):
    q = random_mixture(0, (3, 2), 4, 2)
    temperature = np.float32([0.3, 1.0, 2.0])
    cold = gm.temper(q, temperature)
    power = np.exp(np.float64(q.log_weights)) ** (1 / np.float64(temperature))[:, None, None]
    np.testing.assert_allclose(np.exp(cold.log_weights), power / power.sum(-1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(
        np.exp(2 * cold.log_std), np.exp(2 * q.log_std) * temperature[:, None], rtol=1e-5
    )
    np.testing.assert_allclose(gm.temper(q, 1.0).log_weights, q.log_weights, atol=1e-6)
    gradient = jax.grad(lambda t: jnp.sum(gm.temper(q, t).log_weights))(jnp.float32(0.5))
    assert all_finite(gradient)


def test_no_temperature_empties_a_mixture(random_mixture):
    q = random_mixture(0, (3,), 32, 1)
    coldest = np.exp(gm.temper(q, 1e-30).log_weights)
    np.testing.assert_allclose(coldest.sum(-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(np.argmax(coldest, -1), np.argmax(q.log_weights, -1))
    dropped = gm.GaussianMixture(q.means, jnp.full((3, 32), -jnp.inf).at[:, 1].set(0.0), q.log_std)
    np.testing.assert_array_equal(gm.temper(dropped, 0.5).log_weights, dropped.log_weights)
    gradient = jax.grad(lambda t: jnp.sum(jnp.exp(gm.temper(dropped, t).log_weights)))(jnp.float32(0.5))
    assert all_finite(gradient)


@pytest.mark.parametrize("temperature", [0.0, -1.0, np.nan, "cold"])
def test_a_temperature_that_is_not_positive_is_refused(random_mixture, temperature):
    with pytest.raises(ValueError, match=r"temperature is .* but must be in"):
        gm.temper(random_mixture(0, (3,), 2, 1), temperature)


def test_keys_that_do_not_fit_are_refused(random_mixture):
    q, keys = random_mixture(0, (3, 2), 2, 1), jax.random.split(jax.random.key(0), 4)
    for key in (None, 0):
        with pytest.raises(ValueError, match=f"key is {key}, but must be a PRNG key"):
            gm.drop_components(key, q, 0.5)
    for wrong, axes in ((keys, None), (keys[:1], None), (keys[:3], (0, 1)), (keys.reshape(2, 2), None)):
        with pytest.raises(ValueError, match=r"Keys of shape .* do not fit draws"):
            gm.drop_components(wrong, q, 0.5, axes)
    raw = gm.drop_components(jax.random.key_data(keys[:3]), q, 0.5)
    np.testing.assert_array_equal(raw.log_weights, gm.drop_components(keys[:3], q, 0.5).log_weights)


@pytest.mark.parametrize("rate", [1.0, -0.1, np.nan])
def test_a_rate_that_is_no_probability_below_one_is_refused(random_mixture, rate):
    with pytest.raises(ValueError, match=r"rate is .* but must be in"):
        gm.drop_components(jax.random.key(0), random_mixture(0, (3,), 2, 1), rate)
