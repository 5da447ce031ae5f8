"""Networks as pure functions of dicts of arrays."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gmflow_jax.models import (
    GMMLP,
    GMDiT,
    GMMLPConfig,
    abstract,
    from_params,
    functional,
    gm_dit_config,
    init_params,
    num_params,
)

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")

CONFIG = GMMLPConfig(num_components=2, embed_dim=8, width=8, depth=2)


def test_apply_equals_the_network():
    model = GMMLP(CONFIG, nnx.Rngs(0))
    apply, params = functional(model)
    x_t = jnp.ones((3, 2))
    jax.tree.map(np.testing.assert_array_equal, apply(params, x_t, 0.5), model(x_t, 0.5))


def test_params_are_plain_dicts_with_names_as_keys():
    params = init_params(GMMLP, CONFIG, jax.random.key(0))
    paths = [path for path, _ in jax.tree.leaves_with_path(params)]
    assert all(isinstance(key, jax.tree_util.DictKey) for path in paths for key in path)
    assert all(isinstance(key.key, str) for path in paths for key in path)


def test_abstract_and_jitted_initialisation_have_the_shapes_of_the_network():
    _, params = functional(GMMLP(CONFIG, nnx.Rngs(0)))
    _, shapes = abstract(GMMLP, CONFIG)
    jitted = jax.jit(lambda key: init_params(GMMLP, CONFIG, key))(jax.random.key(0))
    for other in (shapes, jitted):
        assert jax.tree.map(lambda p: (p.shape, p.dtype), other) == jax.tree.map(
            lambda p: (p.shape, p.dtype), params
        )


def test_plain_grad_and_optax_reduce_a_loss():
    apply, params = functional(GMMLP(CONFIG, nnx.Rngs(0)))
    x_t = jax.random.normal(jax.random.key(0), (16, 2))
    optimizer = optax.sgd(1e-2, momentum=0.9)

    def loss(params):
        return jnp.square(apply(params, x_t, 0.5).means - x_t[:, None]).mean()

    @jax.jit
    def step(params, opt_state):
        updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    before, opt_state = loss(params), optimizer.init(params)
    for _ in range(20):
        params, opt_state = step(params, opt_state)
    assert loss(params) < 0.5 * before


@pytest.mark.parametrize("head", ["joint", "separate"])
def test_full_size_transformer_has_the_authors_number_of_parameters(head):
    _, shapes = abstract(GMDiT, gm_dit_config("DiT-XL/2", head=head))
    assert num_params(shapes) == 676_164_001


def test_full_size_mlp_has_the_authors_number_of_parameters():
    assert num_params(abstract(GMMLP, GMMLPConfig())[1]) == 1_412_289


class Counted(nnx.Module):
    """Counts how often it is constructed."""

    times = 0

    def __init__(self, widths, rngs):
        Counted.times += 1
        self.weights = nnx.Param(jnp.zeros(widths, float))


def test_a_network_without_arrays_is_constructed_once_for_equal_configurations(monkeypatch):
    monkeypatch.setattr(Counted, "times", 0)
    widths = [2, 3]
    for config in ((2, 3), (2, 3), widths, widths):  # a list can change, so nothing is kept for it
        assert abstract(Counted, config)[1]["weights"].shape == (2, 3)
    assert Counted.times == 3
    with jax.enable_x64(True):
        assert abstract(Counted, (2, 3))[1]["weights"].dtype == jnp.float64
    assert from_params(Counted, (2, 3), {"weights": jnp.ones((2, 3))}).weights[...].sum() == 6
    assert Counted.times == 4
