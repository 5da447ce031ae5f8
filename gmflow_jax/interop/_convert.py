"""Moves tensors between PyTorch state dicts and our nested dicts of parameters.

A network is a list of entries: which tensor, or which of its rows, is which parameter, or which layer
of a stacked one. Both directions follow from the list.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

Tensors = dict[str, np.ndarray]
Params = dict[str, Any]

_ALIGNMENT = 64  # bytes; jax on a CPU can then use the memory as it is, without a copy


class Layout(NamedTuple):
    """How a parameter is laid out here and in PyTorch; both functions return views where they can."""

    to_ours: Callable[[np.ndarray], np.ndarray]
    to_torch: Callable[[np.ndarray], np.ndarray]


SAME = Layout(lambda tensor: tensor, lambda leaf: leaf)
MATRIX = Layout(np.transpose, np.transpose)  # [inputs, outputs] here
CONV = Layout(lambda tensor: tensor.transpose(2, 3, 1, 0), lambda leaf: leaf.transpose(3, 2, 0, 1))


def patches(size: int, channels: int) -> Layout:
    """A convolution whose stride is its size: here a matrix, its inputs (row, column, channel)."""
    return Layout(
        lambda tensor: tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0]),
        lambda leaf: leaf.reshape(size, size, channels, leaf.shape[-1]).transpose(3, 2, 0, 1),
    )


class Rows(NamedTuple):
    """A part of a tensor: rows `start` to `stop` of each of `groups` groups of `size` rows."""

    groups: int
    start: int
    stop: int
    size: int

    def of(self, tensor: np.ndarray) -> np.ndarray:
        """The part, [groups, stop - start, ...], a view."""
        return tensor.reshape(self.groups, self.size, *tensor.shape[1:])[:, self.start : self.stop]


class Entry(NamedTuple):
    """One tensor: its PyTorch name, the path of our parameter, and the layer if that is stacked."""

    name: str
    path: tuple[str, ...]
    layer: int | None = None
    layout: Layout = SAME
    rows: Rows | None = None

    def torch_shape(self, leaf_shape: tuple[int, ...]) -> tuple[int, ...]:
        shape = self.layout.to_torch(np.broadcast_to(np.float32(0), leaf_shape)).shape
        return shape if self.rows is None else (self.rows.groups * self.rows.size, *shape[1:])


def linear(
    name: str, *path: str, layer: int | None = None, layout: Layout = MATRIX, rows: Rows | None = None
) -> Iterator[Entry]:
    """Weight and bias of a linear layer, or of a convolution with another layout."""
    yield Entry(f"{name}.weight", (*path, "kernel"), layer, layout, rows)
    yield Entry(f"{name}.bias", (*path, "bias"), layer, SAME, rows)


def from_torch(state: Mapping[str, np.ndarray], entries: Iterable[Entry], shapes: Params) -> Params:
    """Our parameters, of the shapes and types of `shapes`; every tensor is read once, one at a time.

    Raises ValueError if a tensor is missing, left over or of a wrong shape.
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
    """The state dict of our parameters; tensors may be views of them.

    Raises ValueError if a parameter is missing, left over or of a wrong shape.
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
    """As jax arrays; on a CPU these are the same memory."""
    return jax.tree.map(lambda leaf: jax.device_put(leaf, may_alias=True), params)


def leaf_at(tree: Params, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def paths(tree: Params, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from paths(value, (*prefix, key))
        else:
            yield (*prefix, key)


def nest(leaves: Mapping[tuple[str, ...], Any]) -> Params:
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
    # A large matrix transposed in one go misses the cache at every number: 5 times slower.
    for start in range(0, source.shape[1], 64):
        target[:, start : start + 64] = source[:, start : start + 64]


def _checked(name: str, tensor: np.ndarray, expected: tuple[int, ...]) -> np.ndarray:
    if tensor.shape == (*expected, 1, 1):  # a matrix stored as a pointwise convolution
        tensor = tensor.reshape(expected)
    _check_shape(name, tensor.shape, expected)
    return tensor


def _check_names(given: Mapping[str, Any], needed: Mapping[str, tuple], what: str = "state dict") -> None:
    missing = sorted(needed.keys() - set(given))
    extra = sorted(set(given) - needed.keys())
    if missing or extra:
        raise ValueError(
            f"The {what} do not belong to this configuration: missing are "
            f"{_some(missing, needed.get)}, left over are {_some(extra, lambda n: tuple(given[n].shape))}; "
            "check its settings, such as the depth."
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
            "check its sizes, such as the number of components."
        )
