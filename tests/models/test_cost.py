"""Counts of operations against those of XLA and of the DiT paper."""

import jax
import jax.numpy as jnp
import pytest

from gmflow_jax.models import PEAK_FLOPS, GMDiT, GMDiTConfig, abstract, forward_flops, peak_flops

# A wide network for few tokens, so that matrix products are nearly all of XLA's count. The blocks are not
# in a loop, as XLA counts the body of a loop once.
SMALL = {"hidden_size": 256, "num_heads": 2, "depth": 2, "num_classes": 10, "scan_layers": False}


@pytest.mark.parametrize(
    "options",
    [
        {"input_size": (8, 16), "num_components": 8, "log_std_dim": 512, "log_std_layers": 3},
        {"input_size": 8, "num_components": 1, "constant_log_std": 0.0, "patch_size": 1},
        {"input_size": 16, "num_components": 2, "in_channels": 16, "mlp_ratio": 2.5, "num_heads": 4},
    ],
)
def test_operations_equal_the_count_of_xla(options):
    config = GMDiTConfig(**SMALL | options)
    apply, params = abstract(GMDiT, config)
    x_t = jax.ShapeDtypeStruct((1, *config.input_height_width, config.in_channels), jnp.float32)
    t, labels = (jax.ShapeDtypeStruct((1,), dtype) for dtype in (jnp.float32, jnp.int32))
    counted = jax.jit(apply).lower(params, x_t, t, labels).cost_analysis()["flops"]
    # The rest of XLA's count, 1.0 to 1.1 % here, is elementwise.
    assert 0 < counted - forward_flops(config) < 0.02 * counted


def test_cost_of_the_largest_network_of_the_dit_paper():
    """Peebles and Xie 2023 (arXiv 2212.09748) state 118.6 billion multiply-adds."""
    config = GMDiTConfig(num_components=1, constant_log_std=0.0)
    assert forward_flops(config) == pytest.approx(2 * 118.6e9, rel=3e-4)
    # The mixture's head adds almost nothing.
    assert forward_flops(GMDiTConfig()) == pytest.approx(forward_flops(config), rel=5e-4)


def test_peak_rates_of_devices():
    assert peak_flops("TPU v4") == PEAK_FLOPS["TPU v4"] == 275e12
    assert peak_flops("TPU v5 lite") < peak_flops("TPU v5") < peak_flops("TPU v6 lite")
    assert peak_flops("NVIDIA A100-SXM4-80GB") < peak_flops("NVIDIA H100 80GB HBM3")
    assert peak_flops(jax.devices("cpu")[0].device_kind) is None
