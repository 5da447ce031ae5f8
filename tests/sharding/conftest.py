"""The ways to run in parallel over the four devices, and the toy network of the tests of training."""

import jax
import pytest

from tests.training.conftest import Toy


@pytest.fixture(scope="session")
def toy():
    return Toy()


@pytest.fixture(scope="module")
def unoptimised():
    """Compile with few optimisations: quicker where each program runs once."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
