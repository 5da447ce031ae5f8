"""Conversion of parameters from and to the state dicts of the authors' code and of diffusers."""

import re
from collections.abc import Iterator, Mapping

import numpy as np

from gmflow_jax.interop._convert import (
    CONV,
    MATRIX,
    SAME,
    Entry,
    Params,
    Rows,
    Tensors,
    from_torch,
    leaf_at,
    linear,
    patches,
    paths,
    to_torch,
)
from gmflow_jax.models import (
    GMMLP,
    AutoencoderKL,
    AutoencoderKLConfig,
    GMDiT,
    GMDiTConfig,
    GMMLPConfig,
    SpectrumMLP,
    SpectrumMLPConfig,
    abstract,
)

# Our modules within a block, and the authors'.
_BLOCK = {
    "modulation": "norm1.linear",
    "query": "attn1.to_q",
    "key": "attn1.to_k",
    "value": "attn1.to_v",
    "attention_out": "attn1.to_out.0",
    "mlp_in": "ff.net.0.proj",
    "mlp_out": "ff.net.2",
}
# The modules of the autoencoder's attention before diffusers 0.17, and since.
_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def gm_dit_from_torch(state: Mapping[str, np.ndarray], config: GMDiTConfig) -> Params:
    """Convert the state dict of the authors' transformer to parameters of `GMDiT(config)`.

    Args:
      state: tensors by name. `config.head` says which of the authors' two variants they belong to.
      config: the network's configuration. The parameters have the type `config.param_dtype`.

    Returns:
      The parameters as a nested dict of arrays.

    Raises:
      ValueError: if a tensor is missing, left over or of a wrong shape.
    """
    if config.head == "joint" and "proj_out_means.weight" in state:
        raise ValueError(
            "The state dict is of the authors' second variant, which has a separate matrix for the "
            "log-weights. Set head='separate' in the configuration (_class_name ends in V2 in a config.json)."
        )
    return from_torch(state, _gm_dit(config), abstract(GMDiT, config)[1])


def gm_dit_to_torch(params: Params, config: GMDiTConfig) -> Tensors:
    """Convert parameters of `GMDiT` to the state dict of the authors' transformer.

    Args:
      params: nested dict of arrays.
      config: the network's configuration; `config.head` chooses the authors' variant.

    Returns:
      Tensors by name. They may be views of the parameters.

    Raises:
      ValueError: if a parameter is missing, left over or of a wrong shape.
    """
    return to_torch(params, _gm_dit(config), abstract(GMDiT, config)[1])


def gm_mlp_from_torch(state: Mapping[str, np.ndarray], config: GMMLPConfig) -> Params:
    """Convert the state dict of the authors' 2-D network to parameters of `GMMLP(config)`.

    Raises:
      ValueError: if a tensor is missing, left over or of a wrong shape.
    """
    return from_torch(state, _gm_mlp(config), abstract(GMMLP, config)[1])


def gm_mlp_to_torch(params: Params, config: GMMLPConfig) -> Tensors:
    """Convert parameters of `GMMLP` to the authors' state dict, which may hold views of them.

    Raises:
      ValueError: if a parameter is missing, left over or of a wrong shape.
    """
    return to_torch(params, _gm_mlp(config), abstract(GMMLP, config)[1])


def spectrum_mlp_from_torch(state: Mapping[str, np.ndarray], config: SpectrumMLPConfig) -> Params:
    """Convert the state dict of the authors' spectrum network to parameters of `SpectrumMLP(config)`.

    Raises:
      ValueError: if a tensor is missing, left over or of a wrong shape.
    """
    return from_torch(state, _spectrum_mlp(config), abstract(SpectrumMLP, config)[1])


def spectrum_mlp_to_torch(params: Params, config: SpectrumMLPConfig) -> Tensors:
    """Convert parameters of `SpectrumMLP` to the authors' state dict, which may hold views of them.

    Raises:
      ValueError: if a parameter is missing, left over or of a wrong shape.
    """
    return to_torch(params, _spectrum_mlp(config), abstract(SpectrumMLP, config)[1])


def autoencoder_from_torch(state: Mapping[str, np.ndarray], config: AutoencoderKLConfig) -> Params:
    """Convert the state dict of diffusers' AutoencoderKL to parameters of `AutoencoderKL(config)`.

    Accepts the current names of the attention (`to_q`), those before diffusers 0.17 (`query`), and
    matrices that are stored as pointwise convolutions.

    Raises:
      ValueError: if a tensor is missing, left over or of a wrong shape.
    """
    old = {new: name for name in state if (new := _modern(name)) != name}
    shapes = abstract(AutoencoderKL, config)[1]
    entries = (e._replace(name=old.get(e.name, e.name)) for e in _autoencoder(shapes))
    return from_torch(state, entries, shapes)


def autoencoder_to_torch(params: Params, config: AutoencoderKLConfig) -> Tensors:
    """Convert parameters of `AutoencoderKL` to the state dict of diffusers; it may hold views of them.

    Raises:
      ValueError: if a parameter is missing, left over or of a wrong shape.
    """
    shapes = abstract(AutoencoderKL, config)[1]
    return to_torch(params, _autoencoder(shapes), shapes)


def _gm_dit(config: GMDiTConfig) -> Iterator[Entry]:
    yield from linear("pos_embed.proj", "patch_embed", layout=patches(config.patch_size, config.in_channels))
    for i in range(2):
        yield from linear(f"emb.timestep_embedder.linear_{i + 1}", "time_mlp", f"layer_{i}")
    yield Entry("emb.class_embedder.embedding_table.weight", ("class_embed", "embedding"))
    for layer in range(config.depth):
        for ours, theirs in _BLOCK.items():
            yield from linear(f"transformer_blocks.{layer}.{theirs}", "blocks", ours, layer=layer)
    yield from linear("proj_out_1", "out_modulation")
    if config.head == "joint":
        # For each pixel of a patch, K * C means and then K log-weights.
        pixels, num_means = config.patch_size**2, config.num_components * config.in_channels
        size = num_means + config.num_components
        yield from linear("proj_out_2", "means", rows=Rows(pixels, 0, num_means, size))
        yield from linear("proj_out_2", "log_weights", rows=Rows(pixels, num_means, size, size))
    else:
        yield from linear("proj_out_means", "means")
        yield from linear("proj_out_logweights", "log_weights")
    if config.constant_log_std is None:
        module = "gm_out.logstd_layers" if config.head == "joint" else "proj_out_logstds"
        for i in range(config.log_std_layers):
            yield from linear(f"{module}.{2 * i + 1}", "log_std", f"layer_{i}")


def _gm_mlp(config: GMMLPConfig) -> Iterator[Entry]:
    for i in range(config.depth):
        yield from linear(f"net.{2 * i}", "trunk", f"layer_{i}")
    yield from linear("out_means", "means")
    yield from linear("out_logweights", "log_weights")
    if config.constant_log_std is None:
        yield from linear("out_logstds", "log_std")


def _spectrum_mlp(config: SpectrumMLPConfig) -> Iterator[Entry]:
    for i in range(len(config.widths) + 1):
        yield from linear(f"mlp.{2 * i}", "mlp", f"layer_{i}")


def _autoencoder(shapes: Params) -> Iterator[Entry]:
    """List the entries. Names differ from ours in numbers, in the last part and in `to_out.0`."""
    layouts = {1: SAME, 2: MATRIX, 4: CONV}
    for path in paths(shapes):
        modules = [re.sub(r"_(\d+)$", r".\1", part) for part in path[:-1]]
        end = "bias" if path[-1] == "bias" else "weight"
        name = ".".join([*modules, end]).replace("to_out.", "to_out.0.")
        yield Entry(name, path, layout=layouts[len(leaf_at(shapes, path).shape)])


def _modern(name: str) -> str:
    parts = name.split(".")
    if "attentions" in parts:
        parts[-2] = _ATTENTION.get(parts[-2], parts[-2])
    return ".".join(parts)
