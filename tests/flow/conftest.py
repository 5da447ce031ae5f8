"""Golden arrays, random states and the two precisions, shared by the tests of flow."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import gm
from tests.helpers import precision_fixture

GOLDEN = Path(__file__).parents[1] / "golden" / "algebra"


# Measured: 6e-7 in float32, 3e-15 in float64.
precision = precision_fixture(float32=1e-6, float64=1e-14)


@pytest.fixture
def read():
    """read(file, dtype): a function get(key, mixture=False) that returns an array, or a mixture."""

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
def random_state():
    """make(seed, *shape): a standard normal array, float32, or float64 with x64."""
    return lambda seed, *shape: jnp.asarray(np.random.default_rng(seed).normal(size=shape))
