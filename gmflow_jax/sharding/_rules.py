"""The rules by which the axes of arrays are split over the axes of the mesh.

The mesh has two axes. A batch is split over all devices. The training state (parameters, averages,
optimiser) is stored in shards over all devices too. A step works on a copy of the parameters that is
whole along 'data'; the parameters of a network's blocks stay split along 'fsdp', and each block gathers
its own when it is computed. So fsdp = 1 is data parallelism with a sharded state (ZeRO, arXiv
1910.02054), and data = 1 is fully sharded data parallelism.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")
# Arrays of fewer numbers stay whole: gathering them would cost latency and save no memory.
MIN_SHARDED_SIZE = 2**16


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]  # no stubs
) -> Mesh:
    """Make a mesh with the axes 'data' and 'fsdp'.

    Neighbouring devices share the axis 'fsdp', which communicates most.

    Args:
      data: size of the axis 'data'; -1 uses all remaining devices.
      fsdp: size of the axis 'fsdp'; -1 uses all remaining devices.
      devices: the devices; None is all devices of all processes.

    Returns:
      The mesh.

    Raises:
      ValueError: if data x fsdp is not the number of devices.
    """
    count = jax.device_count() if devices is None else len(devices)
    sizes = {"data": data, "fsdp": fsdp}
    open_axes = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    if len(open_axes) == 1 and known > 0 and count % known == 0:
        sizes[open_axes[0]] = count // known
    if min(sizes.values()) < 1 or math.prod(sizes.values()) != count:
        raise ValueError(
            f"A mesh of data = {data} and fsdp = {fsdp} was asked for, but there are {count} devices; "
            "give sizes with that product, or -1 for one of them."
        )
    shape, types = tuple(sizes.values()), (AxisType.Auto,) * len(AXES)
    if devices is None:
        return jax.make_mesh(shape, AXES, axis_types=types)
    return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=types)


def partition_spec(
    shape: Sequence[int],
    mesh_sizes: Mapping[str, int],
    stacked: bool = False,
    min_size: int = MIN_SHARDED_SIZE,
) -> PartitionSpec:
    """Return how an array is split over the axes of a mesh.

    Mesh axes are taken in the given order. Each splits the largest array axis whose size it divides; of equal
    axes, the last.

    Args:
      shape: shape of the array.
      mesh_sizes: sizes of the mesh axes by name.
      stacked: whether the first axis enumerates layers that are scanned; it stays whole.
      min_size: arrays of fewer numbers stay whole.

    Returns:
      The partition.
    """
    names: list[tuple[str, ...]] = [()] * len(shape)
    left = list(shape)
    for name, size in mesh_sizes.items() if math.prod(shape) >= min_size else ():
        candidates = [i for i in range(int(stacked), len(shape)) if left[i] % size == 0]
        if size > 1 and candidates:
            axis = max(candidates, key=lambda i: (left[i], i))
            names[axis] += (name,)
            left[axis] //= size
    return PartitionSpec(*(name or None for name in names))


def state_shardings(tree: Any, mesh: Mesh, min_size: int = MIN_SHARDED_SIZE) -> Any:
    """Return the shardings by which a training state, or a part of it, is stored.

    Args:
      tree: a pytree of arrays or `jax.ShapeDtypeStruct`s.
      mesh: mesh of `make_mesh`.
      min_size: arrays of fewer numbers stay whole.

    Returns:
      A pytree of shardings.
    """
    sizes = {"fsdp": mesh.shape["fsdp"], "data": mesh.shape["data"]}

    def place(path, leaf):
        return NamedSharding(mesh, partition_spec(leaf.shape, sizes, _is_stacked(path), min_size))

    return jax.tree_util.tree_map_with_path(place, tree)


def working_copy(params: Any, mesh: Mesh, min_size: int = MIN_SHARDED_SIZE) -> Any:
    """Return the parameters as a step works on them, within jit; their gradients come back in shards.

    Parameters are whole on each device, except those of blocks, which stay split along 'fsdp'.

    Args:
      params: stored parameters.
      mesh: mesh of `make_mesh`.
      min_size: arrays of fewer numbers are stored whole.

    Returns:
      The parameters with sharding constraints.
    """
    sizes = {"fsdp": mesh.shape["fsdp"]}
    stored = state_shardings(params, mesh, min_size)
    params = jax.lax.with_sharding_constraint(params, stored)  # shards the gradients, too

    def gather(path, leaf):
        stacked = _is_stacked(path)
        spec = partition_spec(leaf.shape, sizes, stacked, min_size) if stacked else PartitionSpec()
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(gather, params)


def _is_stacked(path) -> bool:
    """Tell whether a leaf belongs to the blocks of a network, which are stacked along the first axis."""
    return any(getattr(entry, "key", None) == "blocks" for entry in path)
