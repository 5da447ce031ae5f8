"""The authors' tiny networks with random weights, shared by the tests of models."""

import numpy as np
import pytest

from gmflow_jax import interop
from tests import golden_networks

FOLDER = golden_networks.FOLDER


class Golden:
    """One golden transformer: configuration, parameters in our layout, inputs and outputs."""

    def __init__(self, name):
        self.folder = FOLDER / name
        self.config = golden_networks.TRANSFORMERS[name]
        self.arrays = dict(np.load(self.folder / "io.npz"))

    def params(self, file="transformer/diffusion_pytorch_model.safetensors"):
        state = interop.load_safetensors(self.folder / file)
        return interop.gm_dit_from_torch(state, self.config)

    def inputs(self, case):
        a = self.arrays
        return a[f"{case}_x"], a[f"{case}_t"] / np.float32(1000), a[f"{case}_labels"]


@pytest.fixture(params=golden_networks.TRANSFORMERS)
def golden(request):
    return Golden(request.param)


@pytest.fixture
def tiny():
    return Golden("tiny_gmdit")


@pytest.fixture
def mlp_arrays():
    return dict(np.load(FOLDER / "tiny_mlp2d" / "io.npz"))


@pytest.fixture
def mlp_params():
    config = golden_networks.MLP
    state = interop.load_safetensors(FOLDER / "tiny_mlp2d" / "model.safetensors")
    return config, interop.gm_mlp_from_torch(state, config)


@pytest.fixture
def networks():
    return FOLDER
