"""Parallel training: the mesh, how a training state is sharded over it, and jit or pmap over devices."""

from gmflow_jax.sharding._parallelism import JitParallelism as JitParallelism
from gmflow_jax.sharding._parallelism import Parallelism as Parallelism
from gmflow_jax.sharding._parallelism import PmapParallelism as PmapParallelism
from gmflow_jax.sharding._parallelism import make_parallelism as make_parallelism
from gmflow_jax.sharding._rules import make_mesh as make_mesh
from gmflow_jax.sharding._rules import partition_spec as partition_spec
from gmflow_jax.sharding._rules import state_shardings as state_shardings
from gmflow_jax.sharding._rules import working_copy as working_copy
