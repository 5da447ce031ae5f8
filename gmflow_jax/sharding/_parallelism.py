"""Two ways to run one training step on many devices: jit with shardings, and pmap."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gmflow_jax.sharding._rules import AXES, MIN_SHARDED_SIZE, make_mesh, state_shardings, working_copy

Batch = Mapping[str, np.ndarray]


class Parallelism(Protocol):
    """What a training program needs of a way to run in parallel.

    `mesh` has all devices of all processes. `axis_name` is to be given to
    `training.make_train_step`. A state is *portable* if it consists of arrays on `mesh`, which
    can be checkpointed and jitted; `init` and checkpoints give such states, and a step accepts them.
    `replicated` is the sharding of what is whole on every device of `mesh`.
    """

    mesh: Mesh
    axis_name: str | None
    replicated: NamedSharding

    def working_copy(self, params: Any) -> Any:
        """To be called on the parameters within a step, before they are used."""

    def abstract(self, init: Callable[[], Any]) -> Any:
        """Shapes, dtypes and shardings of the portable state that `init()` makes."""

    def init(self, init: Callable[[], Any]) -> Any:
        """Makes the portable state, each shard on its own device."""

    def rows(self, batch_size: int) -> np.ndarray:
        """The rows of a global batch that this process has to provide, in order."""

    def put(self, batch: Batch, batch_size: int) -> dict[str, jax.Array]:
        """Turns this process's rows into what a step accepts as the global batch."""

    def replicate(self, tree: Any) -> Any:
        """Puts arrays, the same in every process, on all devices."""

    def compile(self, train_step: Callable, state: Any, batch: Any) -> Callable:
        """Compiles train_step(state, batch, key), whose state is donated.

        Only shapes and shardings of the arguments count. Metrics come out whole on each device.
        """

    def portable(self, state: Any) -> Any:
        """The portable form of a state that a step returned; copies nothing."""


class JitParallelism:
    """`jax.jit` over a ('data', 'fsdp') mesh; the state stored in shards, see `state_shardings`."""

    axis_name = None

    def __init__(self, mesh: Mesh, min_sharded_size: int = MIN_SHARDED_SIZE):
        self.mesh, self._min_size = mesh, min_sharded_size
        self.replicated = NamedSharding(mesh, PartitionSpec())
        self._by_rows = NamedSharding(mesh, PartitionSpec(AXES))

    def working_copy(self, params: Any) -> Any:
        return working_copy(params, self.mesh, self._min_size)

    def abstract(self, init: Callable[[], Any]) -> Any:
        state = jax.eval_shape(init)
        shardings = state_shardings(state, self.mesh, self._min_size)
        return jax.tree.map(lambda x, s: x.update(sharding=s), state, shardings)

    def init(self, init: Callable[[], Any]) -> Any:
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract(init))
        return jax.jit(init, out_shardings=shardings)()

    def rows(self, batch_size: int) -> np.ndarray:
        _check_batch_size(batch_size, self.mesh.size)
        slices = self._by_rows.addressable_devices_indices_map((batch_size,)).values()
        return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))

    def put(self, batch: Batch, batch_size: int) -> dict[str, jax.Array]:
        rows = self.rows(batch_size)

        def place(local):
            def part(index):
                first = np.searchsorted(rows, index[0].start or 0)
                return local[first : first + batch_size // self.mesh.size]

            shape = (batch_size, *local.shape[1:])
            return jax.make_array_from_callback(shape, self._by_rows, part)

        return {name: place(np.asarray(local)) for name, local in batch.items()}

    def replicate(self, tree: Any) -> Any:
        return _replicate(tree, self.replicated)

    def compile(self, train_step: Callable, state: Any, batch: Any) -> jax.stages.Compiled:
        shardings = jax.tree.map(lambda x: x.sharding, state)
        jitted = jax.jit(
            train_step,
            in_shardings=(shardings, self._by_rows, self.replicated),
            out_shardings=(shardings, self.replicated),
            donate_argnums=0,
        )
        key = jax.eval_shape(lambda: jax.random.key(0))
        with jax.set_mesh(self.mesh):  # tells the networks to gather their blocks one by one
            return jitted.lower(state, batch, key).compile()

    def portable(self, state: Any) -> Any:
        return state


class PmapParallelism:
    """`jax.pmap` over all devices, each of which holds the whole state."""

    axis_name = "device"

    def __init__(self) -> None:
        self.mesh = make_mesh()
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        # What pmap returns lies on the devices of this process.
        local_mesh = Mesh(np.asarray(jax.local_devices()), (self.axis_name,))
        self._local = NamedSharding(local_mesh, PartitionSpec())

    def working_copy(self, params: Any) -> Any:
        return params

    def abstract(self, init: Callable[[], Any]) -> Any:
        return jax.tree.map(lambda x: x.update(sharding=self.replicated), jax.eval_shape(init))

    def init(self, init: Callable[[], Any]) -> Any:
        return jax.jit(init, out_shardings=self.replicated)()

    def rows(self, batch_size: int) -> np.ndarray:
        _check_batch_size(batch_size, self.mesh.size)
        of_device = np.arange(batch_size).reshape(self.mesh.size, -1)
        places = {device: i for i, device in enumerate(jax.devices())}  # the order of pmap's axis
        return np.concatenate([of_device[places[device]] for device in jax.local_devices()])

    def put(self, batch: Batch, batch_size: int) -> dict[str, np.ndarray]:
        per_device = batch_size // self.mesh.size
        return {
            name: np.asarray(local).reshape(-1, per_device, *local.shape[1:])
            for name, local in batch.items()
        }

    def replicate(self, tree: Any) -> Any:
        return _replicate(tree, self.replicated)

    def compile(self, train_step: Callable, state: Any, batch: Any) -> Callable:
        # Compiled at its first call: what pmap compiles ahead of time refuses the rows of one process.
        del state, batch
        pmapped = jax.pmap(
            train_step, self.axis_name, in_axes=(None, 0, None), out_axes=None, donate_argnums=0
        )
        # A portable state would be compiled for apart.
        return lambda state, batch, key: pmapped(_relabel(state, self._local), batch, key)

    def portable(self, state: Any) -> Any:
        return _relabel(state, self.replicated)


def _relabel(tree: Any, sharding: NamedSharding) -> Any:
    """Replicated arrays with another name for where they lie; copies nothing."""

    def relabel(leaf):
        shards = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, sharding, shards)

    return jax.tree.map(lambda x: x if x.sharding == sharding else relabel(x), tree)


def make_parallelism(parallel: str = "jit", data: int = -1, fsdp: int = 1) -> Parallelism:
    """The `Parallelism` called 'jit' or 'pmap'; `data` and `fsdp` are the sizes of the mesh, see `make_mesh`.

    Raises ValueError for another name, for sizes that do not fit, or fsdp with pmap.
    """
    if parallel == "jit":
        return JitParallelism(make_mesh(data, fsdp))
    if parallel != "pmap":
        raise ValueError(f"parallel is {parallel!r}; give 'jit' or 'pmap'.")
    if fsdp != 1 or data not in (-1, jax.device_count()):
        raise ValueError(
            f"parallel is 'pmap', which only splits the batch, over all {jax.device_count()} devices, but "
            f"a mesh of data = {data} and fsdp = {fsdp} was asked for; leave it out, or use parallel='jit'."
        )
    return PmapParallelism()


def _replicate(tree: Any, sharding: NamedSharding) -> Any:
    def put(leaf):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # device_put takes no keys where there are several processes.
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        return jax.device_put(np.asarray(leaf), sharding)

    return jax.tree.map(put, tree)


def _check_batch_size(batch_size: int, devices: int) -> None:
    if batch_size < 1 or batch_size % devices:
        raise ValueError(
            f"A batch of {batch_size} cannot be split over {devices} devices; give a multiple of that."
        )
