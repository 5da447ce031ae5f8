"""Two ways to run one training step on many devices: jit with shardings, and pmap."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gmflow_jax.sharding._rules import (
    MAX_SHARDS,
    MIN_SHARDED_SIZE,
    make_mesh,
    split_into_groups,
    state_shardings,
    working_copy,
)

Batch = Mapping[str, np.ndarray]
GlobalBatch = Mapping[str, jax.Array | np.ndarray]


class Parallelism(Protocol):
    """A way to run a training step on many devices.

    A state is *portable* if it consists of arrays on `mesh`, which can be checkpointed and used under jit.
    `init` and checkpoints return portable states, and a compiled step accepts them.

    Attributes:
      mesh: mesh of all devices of all processes.
      axis_name: to be given to `training.make_train_step`.
      replicated: sharding of arrays that are whole on every device of `mesh`.
    """

    @property
    def mesh(self) -> Mesh: ...

    @property
    def axis_name(self) -> str | None: ...

    @property
    def replicated(self) -> NamedSharding: ...

    def working_copy(self, params: Any) -> Any:
        """Return the parameters as networks use them; called within a step."""
        ...

    def abstract(self, init: Callable[..., Any], *constants: Any) -> Any:
        """Return shapes, dtypes and shardings of the portable state that `init(*constants)` makes."""
        ...

    def init(self, init: Callable[..., Any], *constants: Any) -> Any:
        """Make the portable state, each shard on its own device; `constants` come from `place`."""
        ...

    def place(self, params: Any) -> Any:
        """Put parameters, which are the same in every process, on the devices, sharded as a state's are."""
        ...

    def rows(self, batch_size: int) -> np.ndarray:
        """Return the numbers of the rows of a global batch that this process provides, in order."""
        ...

    def put(self, batch: Batch, batch_size: int) -> GlobalBatch:
        """Convert this process's rows to the global batch that a step accepts.

        Args:
          batch: rows of this process, as given by `rows`, by name.
          batch_size: rows of the global batch.

        Returns:
          The global batch.
        """
        ...

    def replicate(self, tree: Any) -> Any:
        """Put arrays, which are the same in every process, on all devices."""
        ...

    def compile(self, train_step: Callable, state: Any, batch: Any, *constants: Any) -> Callable:
        """Compile a training step. It donates its state.

        Args:
          train_step: train_step(state, batch, key, *constants) -> (state, metrics).
          state: a portable state; only its shapes, dtypes and shardings are used.
          batch: a global batch; only its shapes, dtypes and shardings are used.
          *constants: pytrees from `place` that the step takes, such as a teacher's parameters; only their
            shapes, dtypes and shardings are used.

        Returns:
          The compiled step. Its metrics are whole on each device.
        """
        ...

    def portable(self, state: Any) -> Any:
        """Return the portable form of a state that a step returned; nothing is copied."""
        ...


class JitParallelism:
    """`jax.jit` over a ('data', 'fsdp') mesh, with a sharded state, see `state_shardings`.

    Args:
      mesh: mesh with the axes 'data' and 'fsdp', such as that of `make_mesh`. Explicit axes become Auto, and
        a large axis 'data' is split, see `split_into_groups`.
      min_sharded_size: arrays of fewer numbers are not sharded.
      max_shards: see `split_into_groups`.
    """

    axis_name = None

    def __init__(self, mesh: Mesh, min_sharded_size=MIN_SHARDED_SIZE, max_shards=MAX_SHARDS):
        types = (AxisType.Auto,) * len(mesh.axis_names)
        self.mesh = split_into_groups(Mesh(mesh.devices, mesh.axis_names, axis_types=types), max_shards)
        self._min_size = min_sharded_size
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self._by_rows = NamedSharding(self.mesh, PartitionSpec(self.mesh.axis_names))

    def working_copy(self, params: Any) -> Any:
        """See `Parallelism.working_copy`."""
        return working_copy(params, self.mesh, self._min_size)

    def abstract(self, init: Callable[..., Any], *constants: Any) -> Any:
        """See `Parallelism.abstract`."""
        state = jax.eval_shape(init, *constants)
        shardings = state_shardings(state, self.mesh, self._min_size)
        return jax.tree.map(lambda x, s: x.update(sharding=s), state, shardings)

    def init(self, init: Callable[..., Any], *constants: Any) -> Any:
        """See `Parallelism.init`."""
        shardings = jax.tree.map(lambda x: x.sharding, self.abstract(init, *constants))
        return jax.jit(init, out_shardings=shardings)(*constants)

    def place(self, params: Any) -> Any:
        """See `Parallelism.place`."""
        return jax.device_put(params, state_shardings(params, self.mesh, self._min_size))

    def rows(self, batch_size: int) -> np.ndarray:
        """See `Parallelism.rows`."""
        _check_batch_size(batch_size, self.mesh.size)
        slices = self._by_rows.addressable_devices_indices_map((batch_size,)).values()
        return np.unique(np.concatenate([np.arange(batch_size)[index] for index in slices]))

    def put(self, batch: Batch, batch_size: int) -> dict[str, jax.Array]:
        """See `Parallelism.put`."""
        rows = self.rows(batch_size)

        def place(local):
            def part(index):
                first = np.searchsorted(rows, index[0].start or 0)
                return local[first : first + batch_size // self.mesh.size]

            shape = (batch_size, *local.shape[1:])
            return jax.make_array_from_callback(shape, self._by_rows, part)

        return {name: place(np.asarray(local)) for name, local in batch.items()}

    def replicate(self, tree: Any) -> Any:
        """See `Parallelism.replicate`."""
        return _replicate(tree, self.replicated)

    def compile(
        self, train_step: Callable, state: Any, batch: Any, *constants: Any
    ) -> jax.stages.Compiled:
        """See `Parallelism.compile`."""
        shardings, *of_constants = jax.tree.map(lambda x: x.sharding, (state, *constants))
        jitted = jax.jit(
            train_step,
            in_shardings=(shardings, self._by_rows, self.replicated, *of_constants),
            out_shardings=(shardings, self.replicated),
            donate_argnums=0,
        )
        key = jax.eval_shape(lambda: jax.random.key(0))
        with jax.set_mesh(self.mesh):  # so networks gather their blocks one by one
            return jitted.lower(state, batch, key, *constants).compile()

    def portable(self, state: Any) -> Any:
        """See `Parallelism.portable`."""
        return state


class PmapParallelism:
    """`jax.pmap` over all devices, each of which holds the whole state."""

    axis_name = "device"

    def __init__(self) -> None:
        self.mesh = make_mesh()
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        # pmap returns arrays on the devices of this process.
        local_mesh = Mesh(np.asarray(jax.local_devices()), (self.axis_name,))
        self._local = NamedSharding(local_mesh, PartitionSpec())

    def working_copy(self, params: Any) -> Any:
        """See `Parallelism.working_copy`."""
        return params

    def abstract(self, init: Callable[..., Any], *constants: Any) -> Any:
        """See `Parallelism.abstract`."""
        state = jax.eval_shape(init, *constants)
        return jax.tree.map(lambda x: x.update(sharding=self.replicated), state)

    def init(self, init: Callable[..., Any], *constants: Any) -> Any:
        """See `Parallelism.init`."""
        return jax.jit(init, out_shardings=self.replicated)(*constants)

    def place(self, params: Any) -> Any:
        """See `Parallelism.place`."""
        return self.replicate(params)

    def rows(self, batch_size: int) -> np.ndarray:
        """See `Parallelism.rows`."""
        _check_batch_size(batch_size, self.mesh.size)
        of_device = np.arange(batch_size).reshape(self.mesh.size, -1)
        places = {device: i for i, device in enumerate(jax.devices())}  # the order of pmap's axis
        return np.concatenate([of_device[places[device]] for device in jax.local_devices()])

    def put(self, batch: Batch, batch_size: int) -> dict[str, np.ndarray]:
        """See `Parallelism.put`."""
        per_device = batch_size // self.mesh.size
        return {
            name: np.asarray(local).reshape(-1, per_device, *local.shape[1:])
            for name, local in batch.items()
        }

    def replicate(self, tree: Any) -> Any:
        """See `Parallelism.replicate`."""
        return _replicate(tree, self.replicated)

    def compile(self, train_step: Callable, state: Any, batch: Any, *constants: Any) -> Callable:
        """See `Parallelism.compile`. It compiles at the first call of the step."""
        del state, batch  # ahead of time, pmap would not accept the rows of one process
        in_axes = (None, 0, None, *(None for _ in constants))
        pmapped = jax.pmap(train_step, self.axis_name, in_axes=in_axes, out_axes=None, donate_argnums=0)

        def step(state, batch, key, *constants):
            # A portable state has another sharding, for which pmap would compile again.
            state, constants = _relabel((state, constants), self._local)
            return pmapped(state, batch, key, *constants)

        return step

    def portable(self, state: Any) -> Any:
        """See `Parallelism.portable`."""
        return _relabel(state, self.replicated)


def _relabel(tree: Any, sharding: NamedSharding) -> Any:
    """Give replicated arrays another sharding with the same layout; nothing is copied."""

    def relabel(leaf):
        shards = [shard.data for shard in leaf.addressable_shards]
        return jax.make_array_from_single_device_arrays(leaf.shape, sharding, shards)

    return jax.tree.map(lambda x: x if x.sharding == sharding else relabel(x), tree)


def make_parallelism(parallel: str = "jit", data: int = -1, fsdp: int = 1) -> Parallelism:
    """Make a `Parallelism` by name.

    Args:
      parallel: 'jit' or 'pmap'.
      data: size of the mesh axis 'data', see `make_mesh`.
      fsdp: size of the mesh axis 'fsdp'; 1 with 'pmap'.

    Returns:
      The parallelism.

    Raises:
      ValueError: if the name is unknown, the sizes do not match the devices, or pmap gets an fsdp size.
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
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            # With several processes, device_put does not accept keys.
            return jax.random.wrap_key_data(put(jax.random.key_data(leaf)))
        return jax.device_put(np.asarray(leaf), sharding)

    return jax.tree.map(put, tree)


def _check_batch_size(batch_size: int, devices: int) -> None:
    if batch_size < 1 or batch_size % devices:
        raise ValueError(
            f"A batch of {batch_size} cannot be split over {devices} devices; give a multiple of {devices}."
        )
