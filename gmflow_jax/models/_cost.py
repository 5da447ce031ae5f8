"""Floating-point operations: what a network call needs, and what a device can do."""

import itertools
import math
from collections.abc import Mapping
from types import MappingProxyType

from gmflow_jax.models._config import GMDiTConfig
from gmflow_jax.models._gm_dit import TIME_FEATURES

# By jax's `device_kind`. The makers' data sheets, dense bfloat16 (no sparsity), operations per second.
PEAK_FLOPS: Mapping[str, float] = MappingProxyType({
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v5p": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H200": 989e12,
})  # fmt: skip


def peak_flops(device_kind: str) -> float | None:
    """Dense bfloat16 operations per second of one device, or None if it is not in `PEAK_FLOPS`."""
    return PEAK_FLOPS.get(device_kind)


def forward_flops(config: GMDiTConfig) -> int:
    """Operations of one call of `GMDiT` for one image of `config.input_size`.

    Matrix products and attention, a multiplication and an addition being 2, as in model FLOPs
    utilisation (MFU); elementwise operations, under 1 % at the sizes of the DiT paper, are left out. A
    training step needs 3 times as many, 4 times with `remat='full'`.
    """
    size, pixels = config.hidden_size, config.patch_size**2
    tokens = math.prod(config.input_height_width) // pixels
    inner = int(size * config.mlp_ratio)
    outputs = pixels * config.num_components * (config.in_channels + 1)
    block = 6 * size**2 + tokens * (4 * size**2 + 2 * tokens * size + 2 * size * inner)
    embeddings = tokens * pixels * config.in_channels * size + TIME_FEATURES * size + size**2
    head = 2 * size**2 + tokens * size * outputs
    if config.constant_log_std is None:
        widths = (size, *(config.log_std_dim,) * (config.log_std_layers - 1), 1)
        head += sum(a * b for a, b in itertools.pairwise(widths))
    return 2 * (embeddings + config.depth * block + head)
