"""Conversion between PyTorch state dicts and nested dicts of parameters.

A network is described by a list of entries. Each maps a tensor, or some of its rows, to a parameter, or
to one layer of a stacked parameter. Both directions of the conversion use the same list.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Tensors = dict[str, np.ndarray]
Params = dict[str, Any]

_ALIGNMENT = 64  # bytes; with this alignment jax uses numpy's memory on a CPU without a copy


class Layout(NamedTuple):
    """Conversion between the layouts of a parameter here and in PyTorch.

    Attributes:
      to_ours: maps the tensor to the parameter, as a view if possible.
      to_torch: maps the parameter to the tensor, as a view if possible.
    """

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda tensor: tensor, lambda leaf: leaf)
MATRIX = Layout(np.transpose, np.transpose)  # [inputs, outputs] here
CONV = Layout(lambda tensor: tensor.transpose(2, 3, 1, 0), lambda leaf: leaf.transpose(3, 2, 0, 1))


def patches(size: int, channels: int) -> Layout:
    """Make the layout of a convolution whose stride is its size; here its kernel is a matrix.

    Args:
      size: height and width of the kernel.
      channels: channels of the input.

    Returns:
      The layout. The rows of the matrix are in the order (row, column, channel).
    """
    return Layout(
        lambda tensor: tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0]),
        lambda leaf: leaf.reshape(size, size, channels, leaf.shape[-1]).transpose(3, 2, 0, 1),
    )


class Rows(NamedTuple):
    """Some rows of a tensor whose rows form groups.

    Attributes:
      groups: number of groups.
      start: first row of the part in each group.
      stop: row after the last one of the part in each group.
      size: number of rows in each group.
    """

    groups: int
    start: int
    stop: int
    size: int

    def of(self, tensor: np.ndarray) -> np.ndarray:
        """Select the rows of a tensor, as a view [groups, stop - start, ...]."""
        return tensor.reshape(self.groups, self.size, *tensor.shape[1:])[:, self.start : self.stop]


class Entry(NamedTuple):
    """Correspondence of a tensor, or some of its rows, to a parameter or one layer of it.

    Attributes:
      name: name of the tensor in PyTorch.
      path: keys of the parameter.
      layer: index of the layer if the parameter is stacked over layers, else None.
      layout: conversion between the layouts.
      rows: rows of the tensor; None for all.
    """

    name: str
    path: tuple[str, ...]
    layer: int | None = None
    layout: Layout = SAME
    rows: Rows | None = None

    def torch_shape(self, leaf_shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape of the whole tensor, given the shape of the parameter without layers."""
        shape = self.layout.to_torch(np.broadcast_to(np.float32(0), leaf_shape)).shape
        return shape if self.rows is None else (self.rows.groups * self.rows.size, *shape[1:])


def linear(
    name: str, *path: str, layer: int | None = None, layout: Layout = MATRIX, rows: Rows | None = None
) -> Iterator[Entry]:
    """Make the entries for weight and bias of a linear layer, or of a convolution.

    Args:
      name: name of the layer in PyTorch.
      *path: keys of the layer's parameters.
      layer: index of the layer if the parameters are stacked over layers, else None.
      layout: layout of the weight.
      rows: rows of both tensors; None for all.

    Yields:
      The two entries.
    """
    yield Entry(f"{name}.weight", (*path, "kernel"), layer, layout, rows)
    yield Entry(f"{name}.bias", (*path, "bias"), layer, SAME, rows)


def from_torch(state: Mapping[str, np.ndarray], entries: Iterable[Entry], shapes: Params) -> Params:
    """Convert a state dict to parameters. Each tensor is read once, one at a time.

    Args:
      state: tensors by name.
      entries: the correspondence of tensors and parameters.
      shapes: nested dict of the parameters' shapes and types.

    Returns:
      Nested dict of arrays with these shapes and types.

    Raises:
      ValueError: if a tensor is missing, left over or of a wrong shape.
    """
    by_name: dict[str, list[Entry]] = {}
    for entry in entries:
        by_name.setdefault(entry.name, []).append(entry)
    _check_names(state, {name: _torch_shape(group[0], shapes) for name, group in by_name.items()})
    leaves: dict[tuple[str, ...], np.ndarray] = {}
    for name, group in by_name.items():
        tensor = _checked(name, np.asarray(state[name]), _torch_shape(group[0], shapes))
        for entry in group:
            leaf = leaf_at(shapes, entry.path)
            if entry.path not in leaves:
                leaves[entry.path] = _aligned(leaf.shape, leaf.dtype)
            target = leaves[entry.path] if entry.layer is None else leaves[entry.path][entry.layer]
            part = tensor if entry.rows is None else entry.rows.of(tensor).reshape(-1, *tensor.shape[1:])
            _copy(target, entry.layout.to_ours(part))
    return nest(leaves)


def to_torch(params: Params, entries: Iterable[Entry], shapes: Params) -> Tensors:
    """Convert parameters to a state dict, whose tensors may be views of the parameters.

    Args:
      params: nested dict of arrays.
      entries: the correspondence of tensors and parameters.
      shapes: nested dict of the shapes that the parameters must have.

    Returns:
      Tensors by name.

    Raises:
      ValueError: if a parameter is missing, left over or of a wrong shape.
    """
    entries = list(entries)
    wanted = {".".join(entry.path): leaf_at(shapes, entry.path).shape for entry in entries}
    given = {".".join(path): leaf_at(params, path) for path in paths(params)}
    _check_names(given, wanted, "parameters")
    for name, leaf in given.items():
        _check_shape(name, leaf.shape, wanted[name])
    state: Tensors = {}
    for entry in entries:
        leaf = np.asarray(leaf_at(params, entry.path))
        leaf = leaf if entry.layer is None else leaf[entry.layer]
        tensor = entry.layout.to_torch(leaf)
        if entry.rows is None:
            state[entry.name] = tensor
        else:
            if entry.name not in state:
                state[entry.name] = np.empty(entry.torch_shape(leaf.shape), leaf.dtype)
            part = entry.rows.of(state[entry.name])
            part[...] = tensor.reshape(part.shape)
    return state


def to_device(params: Params) -> Params:
    """Convert numpy arrays to JAX arrays; on a CPU both use the same memory."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, may_alias=True), params)


def leaf_at(tree: Params, path: tuple[str, ...]) -> Any:
    """Return the leaf of a nested dict at a path of keys."""
    for key in path:
        tree = tree[key]
    return tree


def paths(tree: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Iterate over the paths of keys to all leaves of a nested dict, each after `prefix`."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from paths(value, (*prefix, key))
        else:
            yield (*prefix, key)


def nest(leaves: Mapping[tuple[str, ...], Any]) -> Params:
    """Make a nested dict of leaves by their paths of keys."""
    tree: Params = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree


def _torch_shape(entry: Entry, shapes: Params) -> tuple[int, ...]:
    shape = leaf_at(shapes, entry.path).shape
    return entry.torch_shape(shape if entry.layer is None else shape[1:])


def _aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    dtype = np.dtype(dtype)
    size = int(np.prod(shape)) * dtype.itemsize
    buffer = np.empty(size + _ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % _ALIGNMENT
    return buffer[start : start + size].view(dtype).reshape(shape)


def _copy(target: np.ndarray, source: np.ndarray) -> None:
    if source.ndim != 2:
        target[...] = source
        return
    # Copying a large transposed matrix at once misses the cache at every number and is 5 times slower.
    for start in range(0, source.shape[1], 64):
        target[:, start : start + 64] = source[:, start : start + 64]


def _checked(name: str, tensor: np.ndarray, expected: tuple[int, ...]) -> np.ndarray:
    if tensor.shape == (*expected, 1, 1):  # a matrix stored as a pointwise convolution
        tensor = tensor.reshape(expected)
    _check_shape(name, tensor.shape, expected)
    return tensor


def _check_names(given: Mapping[str, Any], needed: Mapping[str, tuple], what: str = "tensors") -> None:
    missing = sorted(needed.keys() - set(given))
    extra = sorted(set(given) - needed.keys())
    if missing or extra:
        raise ValueError(
            f"The {what} do not match the configuration: missing are {_some(missing, needed.get)}, left "
            f"over are {_some(extra, lambda n: tuple(given[n].shape))}; check the configuration, such as the "
            "depth."
        )


def _some(names: list[str], shape: Callable[[str], Any]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(f"{name} {shape(name)}" for name in names[:8]) + more


def _check_shape(name: str, shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    if tuple(shape) != tuple(expected):
        raise ValueError(
            f"{name} has shape {tuple(shape)}, but the configuration needs {tuple(expected)}; "
            "check the configuration, such as the number of components."
        )
