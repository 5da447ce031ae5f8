"""Mixtures of several components from networks of one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import gm, models

pytestmark = pytest.mark.usefixtures("fast_compile")

NETWORKS = {
    "gm_dit": (
        models.GMDiT,
        models.GMDiTConfig(
            input_size=4, in_channels=3, hidden_size=16, depth=1, num_heads=2, num_classes=2,
            num_components=1, constant_log_std=0.0, log_std_dim=8,
        ),
        (2, 4, 4, 3),
    ),
    "gm_mlp": (
        models.GMMLP,
        models.GMMLPConfig(num_components=1, constant_log_std=0.0, width=16, depth=2, embed_dim=8),
        (2, 2),
    ),
}


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_the_mean_stays_and_the_components_are_spread(kind):
    model, config, shape = NETWORKS[kind]
    params = models.init_params(model, config, jax.random.key(0))
    many, repeated = models.repeat_components(config, params, 64, key=jax.random.key(1))
    assert many == dataclasses.replace(config, num_components=64, constant_log_std=None)
    shapes = models.abstract(model, many)[1]
    assert jax.tree.map(jnp.shape, repeated) == jax.tree.map(jnp.shape, shapes)
    x, t = jax.random.normal(jax.random.key(2), shape), jnp.asarray([0.3, 1.0])
    one, q = models.from_params(model, config, params)(x, t), models.from_params(model, many, repeated)(x, t)
    np.testing.assert_allclose(gm.mean(q), gm.mean(one), atol=1e-5)
    np.testing.assert_allclose(q.log_weights, -np.log(64), rtol=1e-6)
    np.testing.assert_allclose(q.log_std, np.log(0.05), rtol=1e-6)
    assert 0.03 < np.std(q.means - one.means) < 0.07  # drawn with 0.05


@pytest.mark.parametrize("kind", list(NETWORKS))
def test_parameters_in_half_precision_stay_so(kind):
    model, config, _ = NETWORKS[kind]
    params = models.init_params(model, config, jax.random.key(0))
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    _, expected = models.repeat_components(config, params, 4)
    _, found = models.repeat_components(dataclasses.replace(config, param_dtype="bfloat16"), half, 4)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(np.float32(a), b, rtol=0.02, atol=1e-3),
        found["means"], expected["means"],
    )


def test_several_components_are_not_repeated():
    model, config, _ = NETWORKS["gm_mlp"]
    config = dataclasses.replace(config, num_components=2)
    with pytest.raises(ValueError, match="predicts 2 components"):
        models.repeat_components(config, models.init_params(model, config, jax.random.key(0)), 4)
    config = dataclasses.replace(config, num_components=1)
    for number in (0, 2.5, "4"):
        with pytest.raises(ValueError, match=r"num_components is .* but must be a whole number, at least 1"):
            models.repeat_components(config, models.init_params(model, config, jax.random.key(0)), number)
