"""The toy network, shared by the tests of sharding."""

import pytest

from tests.toy_network import Toy


@pytest.fixture(scope="session")
def toy():
    return Toy()
