"""Programs that are compiled for TPUs without one.

The compiler is in libtpu, of the extra `tpu`. Where that is not installed, the tests are skipped;
`.ci/run tpu` makes an environment for them.
"""

import importlib.util

import pytest

from tests.tpu import compiled


@pytest.fixture(scope="session", autouse=True)
def _compiler():
    """Skip where there is no compiler, before anything else is imported for it."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("libtpu, the compiler for TPUs, is not installed; see .ci/run tpu")
    with compiled.settings(jax_enable_compilation_cache=False):  # none of the programs is compiled twice
        yield
