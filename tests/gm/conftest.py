"""Random mixtures, golden arrays and the two precisions, shared by the tests of gm."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import gm

GOLDEN = Path(__file__).parents[1] / "golden" / "algebra"


@pytest.fixture(params=["float32", "float64"])
def precision(request):
    """(dtype, suffix of the golden arrays, tolerance). Measured: 2e-7 in float32, 6e-16 in float64."""
    if request.param == "float32":
        yield np.float32, "", 1e-6
    else:
        with jax.enable_x64(True):
            yield np.float64, "_f64", 1e-14


@pytest.fixture(params="abcd")
def golden(request):
    """Each algebra file of the authors' code."""
    return np.load(GOLDEN / f"gm_algebra_{request.param}.npz")


@pytest.fixture
def golden_mixture():
    """read(arrays, dtype, which) -> mixture `which` ('' or '2') of a golden file, log_std [B, 1, 1]."""

    def read(arrays, dtype, which="", normalise=True):
        means, log_weights, log_std = (
            arrays[f"in_{name}{which}"].astype(dtype) for name in ("means", "log_weights", "log_std")
        )
        if normalise:
            log_weights = log_weights - np.log(np.sum(np.exp(log_weights), axis=-1, keepdims=True))
        return gm.GaussianMixture(means, log_weights, log_std[:, None, None])

    return read


@pytest.fixture
def relative_error():
    """max |a - b| / max(1, max |b|)."""

    def error(a, b):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        return np.max(np.abs(a - b)) / max(1.0, np.max(np.abs(b)))

    return error


@pytest.fixture
def random_mixture():
    """make(seed, batch, K, D, dtype, log_std=None) -> mixture with plausible, uneven weights."""

    def make(seed, batch, num_components, dim, dtype=np.float32, log_std=None):
        rng = np.random.default_rng(seed)
        means = rng.normal(size=(*batch, num_components, dim))
        logits = 1.5 * rng.normal(size=(*batch, num_components))
        log_weights = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
        log_std = rng.uniform(-1.5, 0.3, size=batch) if log_std is None else np.broadcast_to(log_std, batch)
        return gm.GaussianMixture(*(jnp.asarray(v, dtype) for v in (means, log_weights, log_std)))

    return make


@pytest.fixture
def assert_sentence():
    """The error message names what was given, and reads as a sentence."""

    def check(error, *given):
        message = str(error.value)
        assert all(word in message for word in given), message
        assert message.endswith(".") and len(message.split()) > 8, message

    return check
