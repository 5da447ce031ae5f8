"""The authors' tiny networks with random weights, shared by the tests of models."""

from pathlib import Path

import jax
import numpy as np
import pytest

from gmflow_jax import interop, models

FOLDER = Path(__file__).parents[1] / "golden" / "networks"
SIZES = {
    "input_size": 8,
    "hidden_size": 16,
    "depth": 2,
    "num_heads": 2,
    "num_classes": 10,
    "num_components": 3,
    "log_std_dim": 16,
}
CONFIGS = {
    "tiny_gmdit": models.GMDiTConfig(**SIZES),
    "tiny_gmdit_v2": models.GMDiTConfig(**SIZES, head="separate"),
    "tiny_gmdit_const_logstd": models.GMDiTConfig(**SIZES | {"depth": 1}, constant_log_std=-0.7),
}


class Golden:
    """One golden transformer: configuration, parameters in our layout, inputs and outputs."""

    def __init__(self, name):
        self.folder = FOLDER / name
        self.config = CONFIGS[name]
        self.arrays = dict(np.load(self.folder / "io.npz"))

    def params(self, file="transformer/diffusion_pytorch_model.safetensors"):
        state = interop.load_safetensors(self.folder / file)
        return interop.gm_dit_from_torch(state, self.config)

    def inputs(self, case):
        a = self.arrays
        return a[f"{case}_x"], a[f"{case}_t"] / np.float32(1000), a[f"{case}_labels"]


def error(array, reference):
    """Largest deviation, relative to the largest reference value or 1."""
    reference = np.asarray(reference, np.float64)
    difference = np.abs(np.asarray(array, np.float64).reshape(reference.shape) - reference)
    return difference.max() / max(1.0, np.abs(reference).max())


@pytest.fixture(params=CONFIGS)
def golden(request):
    return Golden(request.param)


@pytest.fixture
def tiny():
    return Golden("tiny_gmdit")


@pytest.fixture(name="error")
def _error():
    return error


@pytest.fixture
def mlp_arrays():
    return dict(np.load(FOLDER / "tiny_mlp2d" / "io.npz"))


@pytest.fixture
def mlp_params():
    config = models.GMMLPConfig(num_components=4, embed_dim=16, width=24, depth=3)
    state = interop.load_safetensors(FOLDER / "tiny_mlp2d" / "model.safetensors")
    return config, interop.gm_mlp_from_torch(state, config)


@pytest.fixture
def networks():
    return FOLDER


@pytest.fixture
def unoptimised():
    """Compile with few optimisations: quicker where each program runs a few times."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
