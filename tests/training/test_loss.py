"""The training loss and its metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import gm, training
from gmflow_jax.training._example import make_example
from tests.helpers import assert_leaves_close

pytestmark = pytest.mark.usefixtures("fast_compile")


@pytest.fixture(scope="module")
def example(toy):
    """Five transitions, of which two lie on the edges of the bins of time."""
    batch = toy.make_batch(batch_size=5)
    noises = jax.random.normal(jax.random.key(0), (2, *batch["x_0"].shape))
    t = jnp.array([0.1, 0.25, 0.3, 0.9, 1.0])
    return make_example(batch["x_0"], batch["labels"], t, *noises, transition_ratio=1.0)


def test_samples_are_counted_in_the_bin_that_begins_at_their_time(toy, example):
    loss_fn = training.make_loss(toy.apply)
    loss, (parts, bins) = jax.jit(loss_fn)(toy.init_params(), example)
    assert parts == {}
    np.testing.assert_array_equal(bins["time_bin_count"], [1, 2, 0, 2])
    np.testing.assert_allclose(np.sum(bins["time_bin_sum"]) / 5, loss, rtol=1e-6)
    assert bins["time_bin_sum"][2] == 0


def test_a_plain_velocity_is_one_component(toy, example):
    def velocity(params, *inputs):
        return gm.mean(toy.apply(params, *inputs))

    found, expected = (
        jax.jit(training.make_loss(apply, loss="flow"))(toy.init_params(), example)
        for apply in (velocity, toy.apply)
    )
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_both_networks_are_given_the_working_copy(toy, example):
    """A working copy of doubled parameters gives the loss at twice the parameters and twice its gradient."""
    params = {"network": toy.init_params(), "log_power": jnp.full((1, 3, 3, 2), 0.2, jnp.float32)}

    def double(tree):
        return jax.tree.map(lambda x: 2 * x, tree)

    def value_and_grad(params, **options):
        loss_fn = training.make_loss(
            lambda params, *inputs: toy.apply(params["network"], *inputs),
            spectrum_apply=lambda params, q: jnp.broadcast_to(params["log_power"], q.mean.shape),
            **options,
        )
        return jax.jit(jax.value_and_grad(loss_fn, has_aux=True))(params, example)

    found, grads = jax.device_get(value_and_grad(params, working_copy=double))
    expected, grads_at_double = jax.device_get(value_and_grad(double(params)))
    assert_leaves_close((found, grads), (expected, double(grads_at_double)), 1e-6, smallest_scale=0.0)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
