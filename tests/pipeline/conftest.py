"""The authors' tiny networks with an autoencoder, as one bundle with class names."""

import dataclasses
from pathlib import Path

import jax
import pytest

from gmflow_jax import interop, pipeline

GOLDEN = Path(__file__).parents[1] / "golden"
WORDS = {0: "jay", 1: "magpie", 2: "crane, Grus grus", 3: "crane, lifting machine", 9: "macaw, Ara ara"}


@pytest.fixture(scope="session")
def bundle():
    return dataclasses.replace(
        interop.load_diffusers(GOLDEN / "networks" / "tiny_gmdit"),
        autoencoder=interop.load_diffusers(GOLDEN / "autoencoder").autoencoder,
        id2label=WORDS,
    )


@pytest.fixture(scope="module")
def pipe(bundle):
    """On all four devices."""
    return pipeline.Pipeline(bundle)


@pytest.fixture(scope="module")
def single(bundle):
    return pipeline.Pipeline(bundle, devices=jax.devices()[:1])


@pytest.fixture(scope="module", autouse=True)
def _fast_compile(fast_compile_module):
    """Compile every test of the pipeline with few optimisations."""
