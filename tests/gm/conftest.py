"""Golden arrays and the two precisions, shared by the tests of gm."""

from pathlib import Path

import numpy as np
import pytest

from gmflow_jax import gm
from tests.helpers import precision_fixture

GOLDEN = Path(__file__).parents[1] / "golden" / "algebra"


# Measured: 2e-7 in float32, 6e-16 in float64.
precision = precision_fixture(float32=1e-6, float64=1e-14)


@pytest.fixture(params="abcd")
def golden(request):
    """Each algebra file of the authors' code."""
    return np.load(GOLDEN / f"gm_algebra_{request.param}.npz")


@pytest.fixture
def golden_mixture():
    """read(arrays, dtype, which): the mixture `which`, '' or '2', of a golden file, log_std [B, 1, 1]."""

    def read(arrays, dtype, which="", normalise=True):
        means, log_weights, log_std = (
            arrays[f"in_{name}{which}"].astype(dtype) for name in ("means", "log_weights", "log_std")
        )
        if normalise:
            log_weights = log_weights - np.log(np.sum(np.exp(log_weights), axis=-1, keepdims=True))
        return gm.GaussianMixture(means, log_weights, log_std[:, None, None])

    return read
