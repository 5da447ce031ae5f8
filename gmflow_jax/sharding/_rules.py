"""The rules by which the axes of arrays are split over the axes of the mesh.

The mesh has two axes. A batch is split over all devices. The training state (parameters, averages,
optimiser) is stored in shards over all devices too, or over groups of them, see `split_into_groups`. A step
works on a copy of the parameters that is whole along 'data'; the parameters of a network's blocks stay split
along 'fsdp', and each block gathers its own when it is computed. Gradients are summed into the shards. So
fsdp = 1 is data parallelism with a sharded state (ZeRO, arXiv 1910.02054), and data = 1 is fully sharded
data parallelism.
"""

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXES = ("data", "fsdp")
# Arrays of fewer numbers stay whole: gathering them would cost latency and save no memory.
MIN_SHARDED_SIZE = 2**16
# The largest number of parts of the state along 'data'. A host has 8 GPUs, and the widths of S/2, B/2 and
# XL/2 divided by 8 are multiples of 16.
MAX_SHARDS = 8
# TPUs store the last two axes of an array in tiles (of this size in 16 bits). Parts of large arrays should be
# whole tiles, because others are padded, in memory and when they are sent.
_TILE, _MIN_TILED_SIZE = (16, 128), 2**20


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


def split_into_groups(mesh: Mesh, max_shards: int = MAX_SHARDS) -> Mesh:
    """Split the axis 'data' of a large mesh in two: 'replica', and 'data' of at most `max_shards` devices.

    The state is the same in all replicas. On TPUs of three dimensions XLA replaces a gather over all devices
    by a sum of padded arrays, which sends twice the bytes, and sums gradients over all devices before it
    splits them. It does neither for groups of devices.

    Args:
      mesh: mesh of `make_mesh`. Others are returned as they are.
      max_shards: largest size of the new axis 'data'.

    Returns:
      The mesh, with three axes if 'data' is larger than `max_shards` and has a divisor that is at most that
      and above half of it.
    """
    if mesh.axis_names != AXES:
        return mesh
    data, fsdp = mesh.devices.shape
    size = max(n for n in range(1, min(data, max_shards) + 1) if data % n == 0)
    if size == data or 2 * size <= max_shards:
        return mesh
    devices = mesh.devices.reshape(data // size, size, fsdp)
    return Mesh(devices, ("replica", *AXES), axis_types=(AxisType.Auto,) * 3)


def partition_spec(
    shape: Sequence[int],
    mesh_sizes: Mapping[str, int],
    stacked: bool = False,
    min_size: int = MIN_SHARDED_SIZE,
) -> PartitionSpec:
    """Return how an array is split over the axes of a mesh.

    Mesh axes are taken in the given order. Each splits the largest array axis whose size it divides; of equal
    axes, the last. Axes of large arrays come first if their parts are whole tiles of a TPU.

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
            axis = max(candidates, key=lambda i: (_is_tiled(shape, i, left[i] // size), left[i], i))
            names[axis] += (name,)
            left[axis] //= size
    return PartitionSpec(*(name or None for name in names))


def _is_tiled(shape: Sequence[int], axis: int, part: int) -> bool:
    """Whether parts of this size of an axis consist of whole tiles; False for all axes of small arrays."""
    tile = dict(zip((len(shape) - 2, len(shape) - 1), _TILE, strict=True)).get(axis, 1)
    return math.prod(shape) >= _MIN_TILED_SIZE and part % tile == 0


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

    Parameters are whole on each device, except those of blocks, which stay split along 'fsdp'. `jax.grad` is
    defined, `jax.jvp` is not.

    Args:
      params: stored parameters.
      mesh: mesh of `make_mesh`.
      min_size: arrays of fewer numbers are stored whole.

    Returns:
      The parameters with sharding constraints.
    """
    sizes = {"fsdp": mesh.shape["fsdp"]}

    def gather(path, leaf, stored):
        stacked = _is_stacked(path)
        spec = partition_spec(leaf.shape, sizes, stacked, min_size) if stacked else PartitionSpec()
        working = NamedSharding(mesh, spec)
        part = NamedSharding(mesh, _first_part(stored.spec, mesh.shape))
        # A gather along two axes of the mesh would be one over all devices, see `split_into_groups`.
        return _gather(leaf, (working,) if stacked else (part, working), (part, stored))

    return jax.tree_util.tree_map_with_path(gather, params, state_shardings(params, mesh, min_size))


def _first_part(spec: PartitionSpec, sizes: Mapping[str, int]) -> PartitionSpec:
    """Return the partition along the larger axis of the mesh only, or along the first of one array axis."""
    names = [entry[0] if isinstance(entry, tuple) else entry for entry in spec]
    first = max((name for name in names if name), key=lambda name: sizes[name], default=None)
    return PartitionSpec(*(name if name == first else None for name in names))


Shardings = tuple[NamedSharding, ...]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _gather(x: jax.Array, there: Shardings, back: Shardings) -> jax.Array:
    """Gather a parameter by shardings in order; sum its gradient into the shards by those of `back`.

    The gradient is split along one axis of the mesh first: XLA for TPUs sums it into parts along one axis,
    but over all devices if it is to be split along two.
    """
    del back
    return functools.reduce(jax.lax.with_sharding_constraint, there, x)


def _gather_forward(x, there, back):
    return _gather(x, there, back), None


def _gather_backward(there, back, _, cotangent):
    del there
    return (functools.reduce(jax.lax.with_sharding_constraint, back, cotangent),)


_gather.defvjp(_gather_forward, _gather_backward)


def _is_stacked(path) -> bool:
    """Tell whether a leaf belongs to the blocks of a network, which are stacked along the first axis."""
    return any(getattr(entry, "key", None) == "blocks" for entry in path)
