"""Attention against its definition in float64 for every dtype, the choice of 'auto', and linear layers."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax._src.cudnn import fused_attention_stablehlo
from scipy import special

from gmflow_jax.models import _attention, _layers

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")


def draw(dtype, size=1.0, shape=(2, 5, 3, 8)):
    rng = np.random.default_rng(0)
    return [jnp.asarray(size * rng.normal(size=shape), dtype) for _ in range(3)]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-6), ("bfloat16", 1e-2), ("float16", 1e-3)])
@pytest.mark.parametrize("size", [1.0, 12.0])
def test_attention_is_a_softmax_weighted_mean(dtype, tolerance, size):
    """Also for large queries and keys, whose exponentials overflow float16 and lose digits in bfloat16."""
    query, key, value = draw(dtype, size)
    q, k, v = (np.asarray(x, np.float64) for x in (query, key, value))
    weights = special.softmax(np.einsum("bqhd,bkhd->bhqk", q, k) / np.sqrt(8), axis=-1)
    expected = np.einsum("bhqk,bkhd->bqhd", weights, v)
    for implementation in ("xla", "auto"):
        found = _attention.attention(query, key, value, implementation)
        assert found.dtype == query.dtype and found.shape == query.shape
        assert np.abs(np.asarray(found, np.float64) - expected).max() < tolerance * size


def test_attention_to_large_values_does_not_overflow_float16():
    query, value = jnp.zeros((1, 300, 1, 8), "float16"), jnp.full((1, 300, 1, 8), 1000, "float16")
    found = np.asarray(_attention.attention(query, query, value, "xla"), np.float64)
    assert np.abs(found / 1000 - 1).max() < 1e-3


def test_a_linear_layer_accepts_empty_arrays():
    linear = _layers.Linear(4, 7, rngs=nnx.Rngs(0))
    assert linear(jnp.zeros((0, 3, 4))).shape == (0, 3, 7)


def test_the_backward_pass_of_16_bit_attention_multiplies_values_in_16_bits():
    query, key, value = draw("bfloat16")

    def total(*arguments):
        return jnp.sum(_attention.attention(*arguments, "xla").astype(jnp.float32))

    text = jax.jit(jax.grad(total, argnums=(0, 1, 2))).lower(query, key, value).as_text()
    products = [line for line in text.splitlines() if "dot_general" in line]
    operands = [line.split(":")[-1].split("->")[0] for line in products]
    # 16 bits: the logits and both products behind the values. The gradients of the logits are float32.
    assert len(operands) == 5 and sum("f32" not in pair for pair in operands) == 3


def auto_program(platform, dtype="bfloat16", head_dim=72):
    shape = jax.ShapeDtypeStruct((1, 4, 2, head_dim), jnp.dtype(dtype))

    def total(*arguments):
        return jnp.sum(_attention.attention(*arguments, "auto").astype(jnp.float32))

    traced = jax.jit(jax.grad(total, argnums=(0, 1, 2))).trace(shape, shape, shape)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize(
    ("platform", "dtype", "head_dim", "fused"),
    [
        ("cuda", "bfloat16", 72, True),
        ("cuda", "float16", 128, True),
        ("cuda", "float32", 64, False),
        ("cuda", "bfloat16", 36, False),
        ("cuda", "bfloat16", 160, False),
        ("rocm", "bfloat16", 72, False),
        ("cpu", "bfloat16", 72, False),
        ("tpu", "bfloat16", 72, False),
    ],
)
def test_auto_selects_the_fused_kernel_for_nvidia_gpus(monkeypatch, platform, dtype, head_dim, fused):
    """With cuDNN at hand, whose version is all that JAX needs to trace its kernel, whatever the device is."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    text = auto_program(platform, dtype, head_dim)
    assert text.count("@__cudnn$fmhaSoftmax") == 2 * fused  # the kernel and its backward pass
    assert ("dot_general" in text) is not fused


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_auto_without_cudnn_is_the_form_for_xla(platform):
    text = auto_program(platform, head_dim=80)  # JAX remembers the sizes that were traced with cuDNN
    assert "dot_general" in text and "__cudnn" not in text and "case" not in text


@pytest.mark.parametrize(
    ("platform", "capability", "older"),
    [
        ("gpu", "9.0", False), ("gpu", "8.0", False), ("gpu", "12.0", False), ("gpu", "7.5", True),
        ("gpu", "gfx90a", False), ("cpu", None, False), ("tpu", None, False),
    ],
)  # fmt: skip
def test_gpus_before_ampere_lack_the_fused_kernel(platform, capability, older):
    device = types.SimpleNamespace(platform=platform)
    if capability:
        device.compute_capability = capability
    assert _attention._is_older_gpu(device) is older


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_products_are_rounded_once(dtype):
    """A sum of 2,000 terms has an error of at most the rounding of its result."""
    rng = np.random.default_rng(1)
    x, kernel = (jnp.asarray(rng.normal(size=shape), dtype) for shape in [(3, 5, 2000), (2000, 7)])
    linear = _layers.Linear(2000, 7, dtype=dtype, param_dtype=dtype, rngs=nnx.Rngs(0))
    linear.kernel[...] = kernel
    found = jax.jit(linear)(x)
    expected = np.asarray(x, np.float64) @ np.asarray(kernel, np.float64)
    assert found.dtype == dtype and found.shape == (3, 5, 7)
    half_ulp = 0.5 * float(jnp.finfo(dtype).eps)
    assert np.all(np.abs(np.asarray(found, np.float64) - expected) <= half_ulp * np.abs(expected) + 1e-4)
