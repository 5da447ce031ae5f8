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


def test_several_components_are_not_repeated():
    model, config, _ = NETWORKS["gm_mlp"]
    config = dataclasses.replace(config, num_components=2)
    with pytest.raises(ValueError, match="predicts 2 components"):
        models.repeat_components(config, models.init_params(model, config, jax.random.key(0)), 4)
