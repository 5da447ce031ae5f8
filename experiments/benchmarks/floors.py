"""What a device reaches at its simplest: a copy, and a large matrix product."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import timing
from gmflow_jax import models

_SECONDS = 0.5


def num_bytes(*trees: Any) -> int:
    """Bytes of all arrays, or of shapes of arrays, in some pytrees."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))


def copy_call(count: int) -> timing.Call:
    """A call that moves `count` bytes, half of them read and half written, as fast as XLA can.

    It adds 1, for a plain copy would be left out.
    """
    x = jnp.zeros(max(count // 8, 1), jnp.float32)
    return functools.partial(jax.jit(lambda x: x + 1), x)


def matmul_rate(dtype: str) -> float:
    """Operations a second of one device in a large product, summed in float32; a multiply-add is two."""
    size = 1024 if jax.default_backend() == "cpu" else 8192
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), dtype) for key in keys)
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
    call = functools.partial(jax.jit(product), a, b)
    return 2 * size**3 / timing.measure({"matmul": call}, _SECONDS).seconds("matmul").median


def peak_rate(dtype: str) -> float | None:
    """Operations a second that the device's maker promises, where known: for 16-bit floats alone."""
    return models.peak_flops(jax.devices()[0].device_kind) if dtype != "float32" else None
