"""Parallel training: the mesh, where the leaves of a training state lie, jit and pmap as fronts."""

from gmflow_jax.sharding._fronts import Front as Front
from gmflow_jax.sharding._fronts import JitFront as JitFront
from gmflow_jax.sharding._fronts import PmapFront as PmapFront
from gmflow_jax.sharding._fronts import make_front as make_front
from gmflow_jax.sharding._rules import make_mesh as make_mesh
from gmflow_jax.sharding._rules import partition_spec as partition_spec
from gmflow_jax.sharding._rules import state_shardings as state_shardings
from gmflow_jax.sharding._rules import working_copy as working_copy
