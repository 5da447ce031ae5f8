"""Reading and writing safetensors files."""

import ml_dtypes
import numpy as np

from gmflow_jax import interop


def test_round_trip_keeps_types_and_transposed_views(tmp_path):
    tensors = {
        "view": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "bf16": np.array([1.5, -2.0], ml_dtypes.bfloat16),
        "scalar": np.float32(3.0).reshape(()),
    }
    interop.save_safetensors(tmp_path / "x.safetensors", tensors)
    back = interop.load_safetensors(tmp_path / "x.safetensors")
    assert back.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert back[name].dtype == tensor.dtype
        np.testing.assert_array_equal(back[name], tensor)
