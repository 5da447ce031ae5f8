"""Parallel training: the mesh, the sharding of a training state over it, and jit or pmap over devices."""

from gmflow_jax.sharding._parallelism import JitParallelism, Parallelism, PmapParallelism, make_parallelism
from gmflow_jax.sharding._rules import make_mesh, partition_spec, state_shardings, working_copy

__all__ = [
    "JitParallelism", "Parallelism", "PmapParallelism", "make_mesh", "make_parallelism",
    "partition_spec", "state_shardings", "working_copy",
]
