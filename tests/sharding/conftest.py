"""The toy network and the toy with blocks, shared by the tests of sharding."""

import pytest

from tests.helpers import fast_compilation
from tests.sharding.layouts import BlockToy
from tests.toy_network import Toy


@pytest.fixture(scope="session")
def toy():
    return Toy()


@pytest.fixture(scope="module")
def block_toy(toy):
    return BlockToy(toy)


@pytest.fixture(scope="module")
def few_optimisations():
    with fast_compilation(fusion_emitters=True):
        yield
