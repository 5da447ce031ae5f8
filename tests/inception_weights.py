"""Random weights of FID's Inception, seeded by the names of the tensors; see tests/golden/inception."""

import functools
import json
import math
import zlib
from pathlib import Path

import numpy as np

from gmflow_jax.interop import save_safetensors

FOLDER = Path(__file__).parent / "golden" / "inception"


@functools.cache
def shapes() -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors of the published state dict by name."""
    listed = json.loads((FOLDER / "weights.json").read_text())["shapes"]
    return {name: tuple(shape) for name, shape in listed.items()}


@functools.cache
def state_dict() -> dict[str, np.ndarray]:
    """Return the state dict, float32, in PyTorch's names and layouts; it is made once, in about a second."""
    return {name: _tensor(name, shape) for name, shape in shapes().items()}


def write(path: Path) -> None:
    """Write the state dict to a file that `interop.load_inception` reads, .safetensors or .npz."""
    if path.suffix == ".npz":
        np.savez(path, **state_dict())
    else:
        save_safetensors(path, state_dict())


def _tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    draws = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        tensor = draws * math.sqrt(2 / math.prod(shape[1:]))
    elif name.endswith("bn.weight"):
        tensor = 1 + 0.1 * draws
    elif name.endswith("running_var"):
        tensor = 1 + 0.1 * np.abs(draws)
    else:
        tensor = 0.1 * draws
    return tensor.astype(np.float32)
