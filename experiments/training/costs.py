"""Costs of a training run, which are printed at its start: parameters, memory and operations."""

import math
from typing import Any

import jax
from clu import parameter_overview

from experiments.runs import networks
from gmflow_jax import models, sharding
from gmflow_jax.guidance import METHODS


def overview(params: Any) -> str:
    """Return a table of all parameters, with their shapes and shardings."""
    return parameter_overview.get_parameter_overview(params, include_stats="sharding")


def estimate(config, parallelism: sharding.Parallelism, state: Any, compiled: Any, *constants: Any) -> str:
    """Describe the memory of the state and of a step on each device, and the operations of a step.

    Args:
      config: configuration of the run.
      parallelism: parallelism of the run.
      state: training state, of arrays or of shapes with shardings.
      compiled: the training step; its own memory is reported if it is a `jax.stages.Compiled`.
      *constants: the teacher's parameters on the devices, for a distilled run.

    Returns:
      Lines of text.
    """
    shape = " x ".join(f"{name} {size}" for name, size in parallelism.mesh.shape.items())
    lines = [
        f"{config.num_steps:,} steps of {config.batch_size:,} on {parallelism.mesh.size} devices ({shape}), "
        f"{jax.process_count()} processes, {config.parallel}.",
        f"Training state: {_memory(state)}.",
        *(f"Parameters of the teacher: {_memory(params)}." for params in constants),
    ]
    memory = compiled.memory_analysis() if isinstance(compiled, jax.stages.Compiled) else None
    if memory is not None:
        lines.append(f"A step needs {_gigabytes(memory.temp_size_in_bytes)} more on each device.")
    flops = flops_per_image(config)
    if flops:
        step = flops * config.batch_size
        passes = _forward_passes(config)
        text = f"A step takes {step / 1e12:,.3g} TFLOP: {passes} forward passes, without recomputation."
        lines.append(text)
    return "\n".join(lines)


def _memory(tree: Any) -> str:
    leaves = jax.tree.leaves(tree)
    total = sum(_bytes(leaf.shape, leaf) for leaf in leaves)
    stored = sum(_bytes(leaf.sharding.shard_shape(leaf.shape), leaf) for leaf in leaves)
    return f"{_gigabytes(total)} in all, {_gigabytes(stored)} on each device"


def peak_images_per_second(config, parallelism: sharding.Parallelism) -> float | None:
    """Return the speed at a model FLOPs utilisation (MFU) of 1, or None if it is not known."""
    flops = flops_per_image(config)
    peak = models.peak_flops(parallelism.mesh.devices.flat[0].device_kind)
    return peak * parallelism.mesh.size / flops if flops and peak else None


def flops_per_image(config) -> float | None:
    """Return the operations of a training step for one image, without recomputation; None for points."""
    if config.network.kind != "gm_dit":
        return None
    return _forward_passes(config) * models.forward_flops(networks.network_config(config))


def _forward_passes(config) -> int:
    """Return the forward passes that cost as much as a step; a gradient costs two more than its forward pass.

    Those of a teacher, at two points of each sample, count as the student's.
    """
    if "teacher" not in config:
        return 3
    c = config.distillation
    guided = c.guidance_scale != METHODS[c.guidance]
    return 3 + 2 * (1 + guided) + c.data_free * (config.num_calls - 1)


def _bytes(shape: tuple[int, ...], leaf: Any) -> int:
    return math.prod(shape) * leaf.dtype.itemsize


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:,.3g} GB" if count >= 1e8 else f"{count / 1e6:,.3g} MB"
