"""A small conditional mixture network for the tests of training and sharding."""

import jax
import jax.numpy as jnp
import numpy as np

from gmflow_jax.gm import GaussianMixture

NUM_CLASSES, COMPONENTS, CHANNELS, WIDTH = 5, 3, 2, 16


def init_params(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    outputs = COMPONENTS * (CHANNELS + 1)
    return {
        "embed": {"table": 0.3 * jax.random.normal(keys[0], (NUM_CLASSES + 1, WIDTH))},
        "hidden": {
            "kernel": 0.5 * jax.random.normal(keys[1], (CHANNELS + 1, WIDTH)),
            "bias": jnp.zeros((WIDTH,)),
        },
        "out": {
            "kernel": 0.5 * jax.random.normal(keys[2], (WIDTH, outputs)),
            "bias": jnp.zeros((outputs,)),
            "log_std": jnp.zeros(()),
        },
    }


def apply(params, x_t, t, labels=None):
    batch = x_t.shape[:-1]
    per_sample = (t.shape[0],) + (1,) * (x_t.ndim - 1)
    time = jnp.broadcast_to(t.reshape(per_sample), (*batch, 1))
    x = jnp.concatenate([x_t, time], axis=-1)
    hidden = jnp.dot(x, params["hidden"]["kernel"])
    hidden = hidden + params["hidden"]["bias"].reshape((1,) * len(batch) + (-1,))
    if labels is not None:
        hidden = hidden + params["embed"]["table"][labels].reshape((*per_sample[:-1], WIDTH))
    out = jnp.dot(jnp.tanh(hidden), params["out"]["kernel"])
    out = out + params["out"]["bias"].reshape((1,) * len(batch) + (-1,))
    split = COMPONENTS * CHANNELS
    return GaussianMixture(
        means=out[..., :split].reshape((*batch, COMPONENTS, CHANNELS)),
        log_weights=jax.nn.log_softmax(out[..., split:]),
        log_std=jnp.broadcast_to(params["out"]["log_std"], per_sample[:-1]),
    )


def make_batch(step=0, batch_size=8, size=3):
    rng = np.random.default_rng((7, step))
    return {
        "x_0": rng.normal(size=(batch_size, size, size, CHANNELS)).astype(np.float32),
        "labels": rng.integers(0, NUM_CLASSES, batch_size).astype(np.int32),
    }


class Toy:
    """The network, its data and an exact comparison of states."""

    num_classes = NUM_CLASSES
    init_params = staticmethod(init_params)
    apply = staticmethod(apply)
    make_batch = staticmethod(make_batch)

    @staticmethod
    def assert_equal(a, b):
        assert jax.tree.structure(a) == jax.tree.structure(b)
        jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)
