"""Reading and writing safetensors files as dicts of numpy arrays."""

import os
from collections.abc import Mapping

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors relies on
import numpy as np


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all tensors of a safetensors file, in the types that they are stored in."""
    from safetensors.numpy import load_file

    return load_file(path)


def save_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a safetensors file."""
    from safetensors.numpy import save_file

    # The file format stores the raw buffer, so that a transposed view would be written wrongly.
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})
