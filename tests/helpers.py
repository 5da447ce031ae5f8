"""Functions that the tests of several packages share.

Only jax, numpy, pytest and the standard library are imported here, so that the tests of the core run where
nothing else is installed.
"""

import contextlib
import dataclasses
import json
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compiler


def relative_error(found, expected):
    """Return max |found - expected| / max(1, max |expected|) of two arrays of one shape."""
    found, expected = np.asarray(found, np.float64), np.asarray(expected, np.float64)
    assert found.shape == expected.shape
    return np.max(np.abs(found - expected)) / max(1.0, np.max(np.abs(expected)))


def rms_error(found, expected):
    """Return the root mean square of found - expected."""
    return np.sqrt(np.mean((np.asarray(found) - np.asarray(expected)) ** 2))


def assert_trees_close(found, expected, rtol, atol):
    """Assert that two pytrees have one structure and leaves within rtol and atol of each other."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), found, expected)


def assert_leaves_close(found, expected, tolerance, smallest_scale=1.0):
    """Assert that the leaves of two pytrees differ by at most tolerance * max |expected|.

    The maximum is taken over each leaf. A leaf with smaller numbers than `smallest_scale` is compared within
    tolerance * smallest_scale.
    """

    def check(path, a, b):
        atol = tolerance * max(smallest_scale, float(np.abs(b).max()))
        np.testing.assert_allclose(a, b, rtol=0, atol=atol, err_msg=jax.tree_util.keystr(path))

    jax.tree_util.tree_map_with_path(check, found, expected)


def z_scores(exact, x):
    """Return z-scores of moments to order 3, component shares and Gaussian windows.

    Args:
      exact: the law that is tested, a mixture with `means` [K, D], `weights` [K] and `std`.
      x: samples, [N, D].
    """
    x = np.asarray(x, np.float64)
    means, weights, var = exact.means, exact.weights, exact.std**2
    mean = weights @ means
    third = weights @ (means**3 + 3 * means * var)
    second = means.T @ (weights[:, None] * means) + var * np.eye(means.shape[1])
    rows, columns = np.triu_indices(means.shape[1])
    squares = np.sum((x[:, None] - means) ** 2, axis=-1)
    shares = weights * np.exp(-squares / (2 * var))
    shares = shares / shares.sum(-1, keepdims=True)
    # E exp(-|x - m_j|^2 / 2 w), a window of w = var / 2 around each component: sharper than moments.
    width = var / 2
    windows = np.exp(-squares / (2 * width))
    gaps = np.sum((means[:, None] - means) ** 2, axis=-1)
    total = width + var
    expected_windows = (width / total) ** (means.shape[1] / 2) * np.exp(-gaps / (2 * total)) @ weights
    found = np.concatenate([x, x**3, x[:, rows] * x[:, columns], shares, windows], axis=1)
    expected = np.concatenate([mean, third, second[rows, columns], weights, expected_windows])
    return (found.mean(0) - expected) / (found.std(0) / np.sqrt(len(x)))


def all_finite(tree):
    """Return whether every number in a pytree is finite."""
    return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(tree))


def call_each(functions, *arguments):
    """Return {name: function(*arguments)} for a dict of functions."""
    return {name: function(*arguments) for name, function in functions.items()}


def in_threads(functions):
    """Call functions without arguments at the same time, each in a thread; return their results."""
    with ThreadPoolExecutor(len(functions)) as pool:
        return [future.result() for future in [pool.submit(function) for function in functions]]


def permute_components(mixture, order):
    """Return a `gm.GaussianMixture` with its components in another order."""
    means, log_weights = mixture.means[..., order, :], mixture.log_weights[..., order]
    return dataclasses.replace(mixture, means=means, log_weights=log_weights)


def assert_computes_bfloat16_in_float32(function, arguments, rtol=0.0, atol=0.0):
    """Assert that bfloat16 arguments give float32 results, those of the same arguments in float32."""
    half = jax.tree.map(lambda v: v.astype(jnp.bfloat16), arguments)
    found = function(*half)
    expected = function(*jax.tree.map(lambda v: v.astype(jnp.float32), half))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(found))
    assert_trees_close(found, expected, rtol, atol)


def assert_message_names(error, *given):
    """Assert that the message of an exception is a sentence of more than 8 words that contains `given`."""
    message = str(error.value)
    assert all(word in message for word in given), message
    assert message.endswith(".") and len(message.split()) > 8, message


def precision_fixture(float32, float64):
    """Return a fixture that runs a test in both dtypes.

    Its value is (dtype, suffix of the names of the golden arrays, tolerance).

    Args:
      float32: tolerance in float32.
      float64: tolerance in float64.
    """

    @pytest.fixture(params=["float32", "float64"], name="precision")
    def precision(request):
        if request.param == "float32":
            yield np.float32, "", float32
        else:
            with jax.enable_x64(True):
                yield np.float64, "_f64", float64

    return precision


@contextlib.contextmanager
def fast_compilation(fusion_emitters=False):
    """Compile with few optimisations, which is quicker where a program runs only a few times.

    In jax 0.10, XLA's new fusion emitters take two thirds of the remaining time. Only an option of each
    program disables them, and only where few optimisations are asked for does that save anything. They round
    otherwise, so tests that compare roundings may need them.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        with pytest.MonkeyPatch.context() as patch:
            if jax.__version_info__ < (0, 11) and not fusion_emitters:
                patch.setattr(compiler, "get_compile_options", _without_fusion_emitters)
            yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


_get_compile_options = compiler.get_compile_options


def _without_fusion_emitters(*args, **kwargs):
    options = _get_compile_options(*args, **kwargs)
    given = dict(options.env_option_overrides)
    options.env_option_overrides = list(({"xla_cpu_use_fusion_emitters": False} | given).items())
    return options


def json_of_python(*arguments, timeout):
    """Run Python in a new process and return the JSON in the last line that it prints."""
    command = [sys.executable, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    assert result.returncode == 0, result.stderr[-3000:]
    return json.loads(result.stdout.splitlines()[-1])


@contextlib.contextmanager
def file_limit(size):
    """Let writes beyond `size` bytes of a file fail, as they do on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
