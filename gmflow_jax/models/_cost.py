"""Floating-point operations of a network call, and peak rates of devices."""

import itertools
import math
from collections.abc import Mapping
from types import MappingProxyType

from gmflow_jax.models._config import GMDiTConfig
from gmflow_jax.models._gm_dit import TIME_FEATURES

# Dense bfloat16 operations per second (no sparsity) by jax's `device_kind`, from the makers' data sheets.
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
    """Look up the dense bfloat16 operations per second of a device kind; None if it is not known."""
    return PEAK_FLOPS.get(device_kind)


def forward_flops(config: GMDiTConfig) -> int:
    """Count the floating-point operations of one call of `GMDiT` for one image of `config.input_size`.

    Counts matrix products and attention, where a multiplication and an addition are 2 operations, as
    in model FLOPs utilisation (MFU). Elementwise operations are left out; they are under 1 % at the
    sizes of the DiT paper. A training step takes 3 times as many operations, or 4 times as many with
    `remat='full'`.

    Example:
      >>> from gmflow_jax import models
      >>> round(models.forward_flops(models.gm_dit_config("DiT-XL/2")) / 1e9)  # GFLOPs
      237
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
