"""The training state."""

import jax
import jax.numpy as jnp

from gmflow_jax import training


def test_state_starts_at_zero_with_the_average_at_the_parameters(toy):
    params = toy.init_params()
    state = training.init_state(params, training.make_optimizer(1e-3))
    assert (int(state.step), int(state.num_skipped)) == (0, 0)
    toy.assert_equal(state.ema_params, params)


def test_a_given_average_is_kept(toy):
    state = training.init_state(
        toy.init_params(), training.make_optimizer(1e-3), ema_params=toy.init_params(seed=1)
    )
    toy.assert_equal(state.ema_params, toy.init_params(seed=1))


def test_state_can_be_donated_and_traced_abstractly(toy):
    optimizer = training.make_optimizer(1e-3)
    state = training.init_state(toy.init_params(), optimizer)
    abstract = jax.eval_shape(lambda: training.init_state(toy.init_params(), optimizer))
    assert jax.tree.structure(abstract) == jax.tree.structure(state)
    advanced = jax.jit(lambda s: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), s),
                       donate_argnums=0)(state)
    assert int(advanced.step) == 1
