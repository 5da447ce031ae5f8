"""Moves parameters between the authors' PyTorch names and layouts and our nested dicts; numpy only.

The authors' separate head is the common form: their joint head is split into it, or joined from it,
and everything else is one tensor for one parameter, or for one layer of a stacked parameter.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from gmflow_jax.models import (
    GMMLP,
    GMDiT,
    GMDiTConfig,
    GMMLPConfig,
    SpectrumMLP,
    SpectrumMLPConfig,
    abstract,
)

Tensors = dict[str, np.ndarray]
Params = dict[str, Any]

# Our module within a block, and theirs.
_BLOCK = {
    "modulation": "norm1.linear",
    "query": "attn1.to_q",
    "key": "attn1.to_k",
    "value": "attn1.to_v",
    "attention_out": "attn1.to_out.0",
    "mlp_in": "ff.net.0.proj",
    "mlp_out": "ff.net.2",
}
_JOINT = "proj_out_2"
_MEANS, _LOG_WEIGHTS = "proj_out_means", "proj_out_logweights"


class _Entry(NamedTuple):
    """One tensor: its PyTorch name, the path of our parameter, and the layer if that is stacked."""

    name: str
    path: tuple[str, ...]
    layer: int | None = None


def gm_dit_from_torch(state: Mapping[str, np.ndarray], config: GMDiTConfig) -> Params:
    """Parameters of `GMDiT(config)` from the state dict of the authors' transformer.

    `config.head` says which of their two variants the names belong to. Arrays get the type
    `config.param_dtype`. Raises ValueError if a tensor is missing, left over or of a wrong shape.
    """
    shapes = abstract(GMDiT, config)[1]
    if config.head == "joint":
        state = _split_head(state, config)
    return _from_torch(state, list(_gm_dit_entries(config)), shapes, _patch_shape(config))


def gm_dit_to_torch(params: Params, config: GMDiTConfig) -> Tensors:
    """State dict of the authors' transformer, variant `config.head`, from parameters of `GMDiT`.

    The arrays may be views of the parameters. Raises ValueError if a parameter is missing, left over
    or of a wrong shape.
    """
    shapes = abstract(GMDiT, config)[1]
    state = _to_torch(params, list(_gm_dit_entries(config)), shapes, _patch_shape(config))
    return _join_head(state, config) if config.head == "joint" else state


def gm_mlp_from_torch(state: Mapping[str, np.ndarray], config: GMMLPConfig) -> Params:
    """Parameters of `GMMLP(config)` from the state dict of the authors' 2-D network.

    Raises ValueError if a tensor is missing, left over or of a wrong shape.
    """
    return _from_torch(state, list(_gm_mlp_entries(config)), abstract(GMMLP, config)[1])


def gm_mlp_to_torch(params: Params, config: GMMLPConfig) -> Tensors:
    """State dict of the authors' 2-D network from parameters of `GMMLP`; may hold views of them.

    Raises ValueError if a parameter is missing, left over or of a wrong shape.
    """
    return _to_torch(params, list(_gm_mlp_entries(config)), abstract(GMMLP, config)[1])


def spectrum_mlp_from_torch(state: Mapping[str, np.ndarray], config: SpectrumMLPConfig) -> Params:
    """Parameters of `SpectrumMLP(config)` from the state dict of the authors' spectrum network.

    Raises ValueError if a tensor is missing, left over or of a wrong shape.
    """
    shapes = abstract(SpectrumMLP, config)[1]
    return _from_torch(state, list(_spectrum_mlp_entries(config)), shapes)


def spectrum_mlp_to_torch(params: Params, config: SpectrumMLPConfig) -> Tensors:
    """State dict of the authors' spectrum network from parameters of `SpectrumMLP`; may hold views.

    Raises ValueError if a parameter is missing, left over or of a wrong shape.
    """
    shapes = abstract(SpectrumMLP, config)[1]
    return _to_torch(params, list(_spectrum_mlp_entries(config)), shapes)


def _gm_dit_entries(config: GMDiTConfig) -> Iterator[_Entry]:
    yield from _linear("pos_embed.proj", "patch_embed")
    for i in range(2):
        yield from _linear(f"emb.timestep_embedder.linear_{i + 1}", "time_mlp", f"layer_{i}")
    yield _Entry("emb.class_embedder.embedding_table.weight", ("class_embed", "embedding"))
    for layer in range(config.depth):
        for ours, theirs in _BLOCK.items():
            name = f"transformer_blocks.{layer}.{theirs}"
            yield from _linear(name, "blocks", ours, layer=layer)
    yield from _linear("proj_out_1", "out_modulation")
    yield from _linear(_MEANS, "means")
    yield from _linear(_LOG_WEIGHTS, "log_weights")
    if config.constant_log_std is None:
        module = "gm_out.logstd_layers" if config.head == "joint" else "proj_out_logstds"
        for i in range(config.log_std_layers):
            yield from _linear(f"{module}.{2 * i + 1}", "log_std", f"layer_{i}")


def _gm_mlp_entries(config: GMMLPConfig) -> Iterator[_Entry]:
    for i in range(config.depth):
        yield from _linear(f"net.{2 * i}", "trunk", f"layer_{i}")
    yield from _linear("out_means", "means")
    yield from _linear("out_logweights", "log_weights")
    if config.constant_log_std is None:
        yield from _linear("out_logstds", "log_std")


def _spectrum_mlp_entries(config: SpectrumMLPConfig) -> Iterator[_Entry]:
    for i in range(len(config.widths) + 1):
        yield from _linear(f"mlp.{2 * i}", "mlp", f"layer_{i}")


def _linear(name: str, *path: str, layer: int | None = None) -> Iterator[_Entry]:
    yield _Entry(f"{name}.weight", (*path, "kernel"), layer)
    yield _Entry(f"{name}.bias", (*path, "bias"), layer)


def _patch_shape(config: GMDiTConfig) -> tuple[int, int, int]:
    return config.patch_size, config.patch_size, config.in_channels


def _from_torch(
    state: Mapping[str, np.ndarray],
    entries: list[_Entry],
    shapes: Params,
    patch: tuple[int, int, int] | None = None,
) -> Params:
    _check_names("state dict", set(state), {entry.name for entry in entries})
    leaves: dict[tuple[str, ...], np.ndarray] = {}
    for entry in entries:
        shape, dtype = _leaf(shapes, entry.path).shape, _leaf(shapes, entry.path).dtype
        target = leaves.setdefault(entry.path, np.empty(shape, dtype))
        target = target if entry.layer is None else target[entry.layer]
        tensor = np.asarray(state[entry.name])
        _check_shape(entry.name, tensor, _torch_shape(entry, target.shape, patch))
        target[...] = _our_layout(entry, tensor)
    return _nest(leaves)


def _to_torch(
    params: Params,
    entries: list[_Entry],
    shapes: Params,
    patch: tuple[int, int, int] | None = None,
) -> Tensors:
    paths = {entry.path for entry in entries}
    _check_names("parameters", set(map(".".join, _paths(params))), set(map(".".join, paths)))
    for path in paths:
        _check_shape(".".join(path), _leaf(params, path), _leaf(shapes, path).shape)
    state = {}
    for entry in entries:
        leaf = np.asarray(_leaf(params, entry.path))
        leaf = leaf if entry.layer is None else leaf[entry.layer]
        state[entry.name] = _torch_layout(entry, leaf, patch)
    return state


def _torch_shape(entry: _Entry, shape: tuple[int, ...], patch) -> tuple[int, ...]:
    if entry.path[-1] != "kernel":
        return shape
    if entry.path[0] == "patch_embed":
        rows, columns, channels = patch
        return (shape[1], channels, rows, columns)
    return shape[::-1]


def _our_layout(entry: _Entry, tensor: np.ndarray) -> np.ndarray:
    """Kernels are [inputs, outputs] here, and a patch is flattened with its channels last."""
    if entry.path[-1] != "kernel":
        return tensor
    if entry.path[0] == "patch_embed":
        return tensor.transpose(2, 3, 1, 0).reshape(-1, tensor.shape[0])
    return tensor.T


def _torch_layout(entry: _Entry, leaf: np.ndarray, patch) -> np.ndarray:
    if entry.path[-1] != "kernel":
        return leaf
    if entry.path[0] == "patch_embed":
        return leaf.reshape(*patch, leaf.shape[-1]).transpose(3, 2, 0, 1)
    return leaf.T


def _split_head(state: Mapping[str, np.ndarray], config: GMDiTConfig) -> Tensors:
    """The joint head's rows are, for each pixel of a patch, K * C means and then K log-weights."""
    state = dict(state)
    pixels, num_components = config.patch_size**2, config.num_components
    num_means = num_components * config.in_channels
    for suffix in ("weight", "bias"):
        if f"{_JOINT}.{suffix}" not in state:
            raise ValueError(
                f"The state dict has no {_JOINT}.{suffix}, which the joint head has; for weights of "
                "the authors' second variant set head='separate' in the configuration."
            )
        joint = np.asarray(state.pop(f"{_JOINT}.{suffix}"))
        width = (config.hidden_size,) * (joint.ndim - 1)
        expected = (pixels * (num_means + num_components), *(width if suffix == "weight" else ()))
        _check_shape(f"{_JOINT}.{suffix}", joint, expected)
        joint = joint.reshape(pixels, num_means + num_components, *width)
        state[f"{_MEANS}.{suffix}"] = joint[:, :num_means].reshape(-1, *width)
        state[f"{_LOG_WEIGHTS}.{suffix}"] = joint[:, num_means:].reshape(-1, *width)
    return state


def _join_head(state: Tensors, config: GMDiTConfig) -> Tensors:
    pixels = config.patch_size**2
    for suffix in ("weight", "bias"):
        parts = [state.pop(f"{name}.{suffix}") for name in (_MEANS, _LOG_WEIGHTS)]
        width = parts[0].shape[1:]
        joint = np.concatenate([part.reshape(pixels, -1, *width) for part in parts], axis=1)
        state[f"{_JOINT}.{suffix}"] = joint.reshape(-1, *width)
    return state


def _check_names(what: str, given: set[str], needed: set[str]) -> None:
    missing, extra = sorted(needed - given), sorted(given - needed)
    if missing or extra:
        raise ValueError(
            f"The {what} do not belong to this configuration: missing are {_some(missing)}, left "
            f"over are {_some(extra)}; check the depth, the head and the log standard deviation."
        )


def _some(names: list[str]) -> str:
    if not names:
        return "none"
    more = f" and {len(names) - 8} more" if len(names) > 8 else ""
    return ", ".join(names[:8]) + more


def _check_shape(name: str, array: Any, expected: tuple[int, ...]) -> None:
    if tuple(array.shape) != tuple(expected):
        raise ValueError(
            f"{name} has shape {tuple(array.shape)}, but the configuration needs {tuple(expected)}; "
            "check the sizes in the configuration."
        )


def _leaf(tree: Params, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _paths(tree: Params, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _paths(value, (*prefix, key))
        else:
            yield (*prefix, key)


def _nest(leaves: Mapping[tuple[str, ...], np.ndarray]) -> Params:
    tree: Params = {}
    for path, leaf in leaves.items():
        node = tree
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = leaf
    return tree
