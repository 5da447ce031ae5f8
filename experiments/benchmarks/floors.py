"""Reference speeds of a device: a copy, and a large matrix product."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from experiments.benchmarks import timing
from gmflow_jax import models

_SECONDS = 0.5


def num_bytes(*trees: Any) -> int:
    """Return the bytes of all arrays, or `jax.ShapeDtypeStruct`s, in pytrees."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))


def copy_call(count: int) -> timing.Call:
    """Return a call that reads `count` / 2 bytes and writes as many.

    It adds 1, because XLA would remove a plain copy.
    """
    x = jnp.zeros(max(count // 8, 1), jnp.float32)
    return functools.partial(jax.jit(lambda x: x + 1), x)


def matmul_rate(dtype: str) -> float:
    """Measure the operations per second of a large matrix product on one device.

    The sums are in float32, and a multiply-add counts as two operations.
    """
    size = 1024 if jax.default_backend() == "cpu" else 8192
    keys = jax.random.split(jax.random.key(0))
    a, b = (jax.random.normal(key, (size, size), dtype) for key in keys)
    product = functools.partial(jnp.matmul, preferred_element_type=jnp.float32)
    call = functools.partial(jax.jit(product), a, b)
    return 2 * size**3 / timing.measure({"matmul": call}, _SECONDS).seconds("matmul").median


def peak_rate(dtype: str) -> float | None:
    """Return the operations per second that the manufacturer states; None for float32 or other devices."""
    return models.peak_flops(jax.devices()[0].device_kind) if dtype != "float32" else None
