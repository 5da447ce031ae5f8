"""Which axis of which array is split over which axis of the mesh.

The mesh has two axes. A batch is split over all devices. The training state (parameters, EMA,
optimiser) is stored in shards over all devices too; a step works on a copy of the parameters that is
whole along 'data' and, within the blocks of a network, still in shards along 'fsdp': each block's are
gathered when it is their turn. So fsdp = 1 is data parallelism with a sharded state (ZeRO,
arXiv 1910.02054), and data = 1 is fully sharded data parallelism.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")
# Gathering less than this many numbers costs latency and saves no memory.
MIN_SHARDED_SIZE = 2**16


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with the axes 'data' and 'fsdp' over all devices, or those given.

    One of the sizes may be -1, for what is left. Neighbouring devices share the axis 'fsdp', which
    communicates most. Raises ValueError if data x fsdp is not the number of devices.
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
            "give sizes whose product that is, or -1 for one of them."
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
    """How an array of this shape is split over the mesh axes `mesh_sizes`, the first one first.

    Each mesh axis takes the largest axis of the array that it divides, of equals the last; an array of
    fewer than `min_size` numbers stays whole. `stacked` arrays keep their first axis whole, along which
    layers are scanned.
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
    """Where the leaves of a training state, or of a part of it, are stored: a tree of shardings."""
    sizes = {"fsdp": mesh.shape["fsdp"], "data": mesh.shape["data"]}

    def place(path, leaf):
        return NamedSharding(mesh, partition_spec(leaf.shape, sizes, _is_stacked(path), min_size))

    return jax.tree_util.tree_map_with_path(place, tree)


def working_copy(params: Any, mesh: Mesh, min_size: int = MIN_SHARDED_SIZE) -> Any:
    """The parameters as a step works on them, to be called within jit; gradients return in shards.

    Whole on each device, but for those of the blocks, which stay split along 'fsdp'.
    """
    sizes = {"fsdp": mesh.shape["fsdp"]}
    stored = state_shardings(params, mesh, min_size)
    params = jax.lax.with_sharding_constraint(params, stored)  # for what flows back: the gradients

    def gather(path, leaf):
        stacked = _is_stacked(path)
        spec = partition_spec(leaf.shape, sizes, stacked, min_size) if stacked else PartitionSpec()
        return jax.lax.with_sharding_constraint(leaf, NamedSharding(mesh, spec))

    return jax.tree_util.tree_map_with_path(gather, params)


def _is_stacked(path) -> bool:
    """Whether a leaf belongs to the blocks of a network, which are stacked along the first axis."""
    return any(getattr(entry, "key", None) == "blocks" for entry in path)
