"""Random states and mixtures, and the two precisions, shared by the tests of flow."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import gm

GOLDEN = Path(__file__).parents[1] / "golden" / "algebra"


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """(dtype, suffix of the golden arrays, tolerance). Measured: 6e-7 in float32, 3e-15 in float64."""
    if request.param == "float32":
        yield np.float32, "", 1e-6
    else:
        with jax.enable_x64(True):
            yield np.float64, "_f64", 1e-14


@pytest.fixture
def read():
    """read(file, dtype) -> a function that gives an array, or a mixture with log_std [B, 1, 1]."""

    def open_file(name, dtype):
        arrays = np.load(GOLDEN / name)

        def get(key, mixture=False):
            if not mixture:
                return jnp.asarray(arrays[key], dtype)
            means, log_weights, log_std = (get(key + k) for k in ("means", "log_weights", "log_std"))
            return gm.GaussianMixture(means, log_weights, log_std[:, None, None])

        return get

    return open_file


@pytest.fixture
def random_mixture():
    """make(seed, batch, K, D, dtype, log_std=None) -> mixture."""

    def make(seed, batch, num_components, dim, dtype=np.float32, log_std=None):
        rng = np.random.default_rng(seed)
        means = rng.normal(size=(*batch, num_components, dim))
        logits = 1.5 * rng.normal(size=(*batch, num_components))
        log_weights = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
        log_std = rng.uniform(-1.5, 0.3, size=batch) if log_std is None else np.broadcast_to(log_std, batch)
        return gm.GaussianMixture(*(jnp.asarray(v, dtype) for v in (means, log_weights, log_std)))

    return make


@pytest.fixture
def random_state():
    """make(seed, *shape) -> standard normal array, float32 (float64 under x64)."""
    return lambda seed, *shape: jnp.asarray(np.random.default_rng(seed).normal(size=shape))


@pytest.fixture
def assert_sentence():
    """The error message names what was given, and reads as a sentence."""

    def check(error, *given):
        message = str(error.value)
        assert all(word in message for word in given), message
        assert message.endswith(".") and len(message.split()) > 8, message

    return check
