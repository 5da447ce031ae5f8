"""Compile a training step of GM-DiT-XL/2 for 8 devices as (2, 4), and print its memory as JSON.

Run as a program: it needs more simulated devices than the tests have. Nothing is allocated.
"""

import collections
import json
import math
import os
import re

os.environ.pop("XLA_FLAGS", None)  # an inherited device count would override ours

import jax
import jax.numpy as jnp

from experiments.configs import imagenet256_gmdit_xl_k8
from experiments.training import steps
from gmflow_jax import sharding


def num_bytes(leaf, shape):
    return math.prod(shape) * leaf.dtype.itemsize


def main():
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_disable_most_optimizations", True)
    config = imagenet256_gmdit_xl_k8.get_config()
    config.batch_size = 64
    parallelism = sharding.make_parallelism("jit", data=2, fsdp=4)
    optimizer = steps.make_optimizer(config)
    state = parallelism.abstract(steps.make_init(config, optimizer))
    batch = {
        "x_0": jax.ShapeDtypeStruct((64, 32, 32, 4), jnp.float32),
        "labels": jax.ShapeDtypeStruct((64,), jnp.int32),
    }
    compiled = parallelism.compile(steps.make_train_step(config, optimizer, parallelism), state, batch)
    memory = compiled.memory_analysis()
    leaves = jax.tree.leaves(state)
    replicated = sum(num_bytes(x, x.shape) for x in leaves if x.sharding.is_fully_replicated)
    total = sum(num_bytes(x, x.shape) for x in leaves)
    batch_bytes = sum(num_bytes(x, x.shape) for x in batch.values()) // 8
    gathered = collections.Counter(
        math.prod(map(int, shape.split(",")))
        for shape in re.findall(r"= \w+\[([\d,]+)\]\S* all-gather\(", compiled.as_text())
    )
    print(json.dumps({
        "state": total,
        "replicated": replicated,
        "state_per_device": memory.argument_size_in_bytes - batch_bytes,
        "ideal_per_device": (total - replicated) / 8 + replicated,
        "temporary_per_device": memory.temp_size_in_bytes,
        "largest_gather": max(gathered),
    }))


if __name__ == "__main__":
    main()
