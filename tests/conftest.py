"""Settings that must be made before jax starts: strict promotion and simulated devices."""

import os

os.environ.pop("XLA_FLAGS", None)  # an inherited device count would override ours

import jax
import pytest

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def x64():
    """float64 switched on for the length of a test."""
    with jax.enable_x64(True):
        yield
