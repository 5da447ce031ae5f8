"""Training gives the same losses on any layout of devices; memory of the full-size state."""

import numpy as np
import pytest

from tests.helpers import json_of_python

pytestmark = pytest.mark.slow


def run(program, *arguments):
    """Run a program beside this file; return the JSON in its last line."""
    return json_of_python("-m", f"tests.sharding.{program}", *arguments, timeout=600)


@pytest.fixture(scope="module")
def losses():
    return run("train_layouts", "20")


@pytest.mark.parametrize("layout", ["(8, 1)", "(4, 2)", "(1, 8)", "pmap"])
def test_losses_of_20_steps_do_not_depend_on_the_layout(losses, layout):
    for kind in ("", "distillation, "):
        expected = losses[f"{kind}one device"]
        assert len(set(expected)) == 20
        np.testing.assert_allclose(losses[kind + layout], expected, rtol=1e-5)


def test_the_state_of_the_full_size_network_is_stored_in_shards():
    found = run("compile_xl")
    assert found["state"] > 4 * 4 * 676e6  # parameters, EMA and two moments
    assert found["state_per_device"] <= 1.15 * found["ideal_per_device"]
    # A block's largest matrix is 1152 x 6912. Larger gathers are of a quarter of a stack of 28 layers.
    assert found["largest_gather"] <= 28 * 1152 * 6912 // 4
