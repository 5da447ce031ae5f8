"""Networks from other checkpoints than diffusers folders: plain DiT or SiT, and GMFlow's training."""

import dataclasses
import math
import os
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from gmflow_jax.interop._bundle import Bundle
from gmflow_jax.interop._convert import Entry, Params, Rows, from_torch, linear, patches, to_device
from gmflow_jax.interop._safetensors import Renamed, TensorFiles
from gmflow_jax.interop._torch_params import gm_dit_from_torch, spectrum_mlp_from_torch
from gmflow_jax.models import (
    GMDiT,
    GMDiTConfig,
    SpectrumMLP,
    SpectrumMLPConfig,
    abstract,
    from_params,
    repeat_components,
)
from gmflow_jax.models._config import DIT_SIZES
from gmflow_jax.models._embeddings import position_table

_HEADS = {size: num_heads for size, _, num_heads in DIT_SIZES.values()}
_BLOCK = {
    "modulation": "adaLN_modulation.1",
    "attention_out": "attn.proj",
    "mlp_in": "mlp.fc1",
    "mlp_out": "mlp.fc2",
}


def load_dit(
    source: str | os.PathLike[str] | Mapping[str, np.ndarray],
    kind: str = "dit",
    *,
    num_components: int = 8,
    offset_std: float = 0.1,
    key: jax.Array | None = None,
    num_heads: int | None = None,
    input_size: int | None = None,
    param_dtype: str = "float32",
) -> Bundle:
    """Initialise a GMFlow network from a plain DiT or SiT, to train it further.

    The mean of every component is the network's prediction plus an offset. The offsets are drawn for each
    component and each channel of each pixel of a patch, and sum to 0 over the components, so the
    mixture's mean is the prediction. The weights are uniform and the standard deviation is 1, so that
    the loss of K = 1 is that of flow matching.

    Args:
      source: a safetensors file with the names of the original code, such as `blocks.0.attn.qkv.weight`,
        or a mapping of these names to arrays. Channels of a learned variance are left out.
      kind: 'sit' or 'dit'. A SiT predicts the velocity towards the data at times from noise to data; its
        time and sign are reversed, so that the predictions agree, except that the norm before the MLP has
        epsilon 1e-5 here. Its configuration has time_scale 1, which `save_diffusers` cannot write. A DiT
        predicts the noise at 1000 time steps; its weights are copied unchanged, so its predictions are
        no velocities before further training.
      num_components: number of mixture components K.
      offset_std: standard deviation of the offsets of the component means, in units of the velocity.
      key: PRNG key for the offsets and the MLP of the standard deviation; `jax.random.key(0)` by default.
      num_heads: number of attention heads; by default that of the published network of the same width.
      input_size: height and width that positions refer to; by default from `pos_embed`, or 32.
      param_dtype: type of the parameters.

    Returns:
      A bundle with the transformer only.

    Raises:
      ValueError: if a tensor is missing, left over or of a wrong shape, or the positions are learned.

    Source:
      Peebles and Xie 2023 (arXiv 2212.09748); Ma et al. 2024 (SiT, arXiv 2401.08740).
    """
    if kind not in ("dit", "sit"):
        raise ValueError(f"kind is {kind!r}; give 'sit' for a flow model, or 'dit' for a noise prediction.")
    state = source if isinstance(source, Mapping) else TensorFiles([source])
    config, params = _single_component(state, kind, num_heads, input_size)
    config, params = repeat_components(
        config, params, num_components, offset_std=offset_std, log_std=0.0, key=key
    )
    config = dataclasses.replace(config, param_dtype=param_dtype)
    params = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, param_dtype), params)
    return Bundle(from_params(GMDiT, config, params))


def _single_component(
    state: Mapping[str, np.ndarray], kind: str, num_heads: int | None, input_size: int | None
) -> tuple[GMDiTConfig, Params]:
    """Convert a DiT or SiT to a mixture of one component with a constant standard deviation."""
    try:
        config = _config_of(state, kind, num_heads, input_size)
    except (KeyError, IndexError, TypeError) as error:
        raise ValueError(
            f"The tensors are not those of a DiT or SiT ({error}); give a checkpoint with the names of "
            "the original code."
        ) from error
    out_channels = state["final_layer.linear.weight"].shape[0] // config.patch_size**2
    if out_channels < config.in_channels:
        raise ValueError(
            f"final_layer.linear predicts {out_channels} channels of a pixel, but the input has "
            f"{config.in_channels}; give a checkpoint of a DiT or SiT."
        )
    named = Renamed(state, {name: name for name in state if name != "pos_embed"})
    params = from_torch(named, _dit(config, out_channels), abstract(GMDiT, config)[1])
    if kind == "sit":
        _reverse_time(params["time_mlp"]["layer_0"])
        params["means"] = jax.tree.map(np.negative, params["means"])
    return config, params


def load_training(
    path: str | os.PathLike[str],
    config: GMDiTConfig,
    spectrum_config: SpectrumMLPConfig | None = None,
    prefix: str = "diffusion_ema.",
) -> Bundle:
    """Load the networks of a checkpoint of the authors' training code.

    Convert the checkpoint to safetensors first.

    Args:
      path: the safetensors file, with names such as `diffusion_ema.denoising.pos_embed.proj.weight`.
      config: the transformer's configuration, which the file does not hold.
      spectrum_config: the spectrum network's configuration; None loads no spectrum network.
      prefix: 'diffusion_ema.' for the averaged parameters, 'diffusion.' for the current ones.

    Returns:
      A bundle with the transformer and, if asked for, the spectrum network.

    Raises:
      ValueError: if a tensor is missing or of a wrong shape, or a tensor with this prefix is left over.
    """
    tensors = TensorFiles([path])
    parts: dict[str, dict[str, str]] = {"denoising": {}, "spectrum_net": {}}
    for key in tensors:
        if key.startswith(prefix):
            network, _, name = key.removeprefix(prefix).partition(".")
            if network not in parts:
                raise ValueError(
                    f"{path} holds {key}, which belongs to neither {' nor '.join(parts)}; leave it out."
                )
            parts[network][name] = key
    if not parts["denoising"]:
        raise ValueError(f"{path} has no names that start with {prefix}denoising; give another prefix.")
    params = gm_dit_from_torch(Renamed(tensors, parts["denoising"]), config)
    model = from_params(GMDiT, config, to_device(params))
    if spectrum_config is None:
        return Bundle(model)
    params = spectrum_mlp_from_torch(Renamed(tensors, parts["spectrum_net"]), spectrum_config)
    return Bundle(model, from_params(SpectrumMLP, spectrum_config, to_device(params)))


def _config_of(
    state: Mapping[str, np.ndarray], kind: str, num_heads: int | None, input_size: int | None
) -> GMDiTConfig:
    for name in ("x_embedder.proj.weight", "y_embedder.embedding_table.weight", "final_layer.linear.weight"):
        if name not in state:
            raise ValueError(
                f"There is no {name}, so this is not a class-conditional DiT or SiT; give a checkpoint with "
                "the names of the original code."
            )
    embedder = state["x_embedder.proj.weight"].shape
    if len(embedder) != 4:
        raise ValueError(f"x_embedder.proj.weight has shape {embedder}, but patches need four axes.")
    hidden_size, channels, patch_size, _ = embedder
    num_heads = num_heads or _HEADS.get(hidden_size)
    if num_heads is None:
        raise ValueError(f"No published DiT has the width {hidden_size}, so give num_heads.")
    if "pos_embed" in state:
        input_size = _checked_positions(state["pos_embed"], patch_size, input_size)
    return GMDiTConfig(
        input_size=input_size or 32,
        in_channels=channels,
        patch_size=patch_size,
        hidden_size=hidden_size,
        depth=len({name.split(".")[1] for name in state if name.startswith("blocks.")}),
        num_heads=num_heads,
        num_classes=state["y_embedder.embedding_table.weight"].shape[0] - 1,
        num_components=1,
        mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / hidden_size,
        constant_log_std=0.0,
        time_scale=1.0 if kind == "sit" else 1000.0,
        head="separate",
    )


def _checked_positions(table: np.ndarray, patch_size: int, input_size: int | None) -> int:
    """Return the input size of a table of positions, which must hold the same features as ours."""
    side = math.isqrt(table.shape[1])
    known = position_table((side, side), (side, side), table.shape[2])
    # A table that was rounded to bfloat16 is off by 2e-3.
    if side**2 != table.shape[1] or np.abs(np.asarray(table[0], np.float32) - known).max() > 1e-2:
        raise ValueError("pos_embed is not the fixed table of a DiT; learned positions cannot be loaded.")
    if input_size not in (None, side * patch_size):
        raise ValueError(
            f"pos_embed is for input_size {side * patch_size}, but {input_size} was given; leave it out."
        )
    return side * patch_size


def _dit(config: GMDiTConfig, out_channels: int) -> Iterator[Entry]:
    size = config.hidden_size
    yield from linear("x_embedder.proj", "patch_embed", layout=patches(config.patch_size, config.in_channels))
    for i in range(2):
        yield from linear(f"t_embedder.mlp.{2 * i}", "time_mlp", f"layer_{i}")
    yield Entry("y_embedder.embedding_table.weight", ("class_embed", "embedding"))
    for layer in range(config.depth):
        for i, ours in enumerate(("query", "key", "value")):
            rows = Rows(1, i * size, (i + 1) * size, 3 * size)
            yield from linear(f"blocks.{layer}.attn.qkv", "blocks", ours, layer=layer, rows=rows)
        for ours, theirs in _BLOCK.items():
            yield from linear(f"blocks.{layer}.{theirs}", "blocks", ours, layer=layer)
    yield from linear("final_layer.adaLN_modulation.1", "out_modulation")
    rows = Rows(config.patch_size**2, 0, config.in_channels, out_channels)
    yield from linear("final_layer.linear", "means", rows=rows)


def _reverse_time(layer: Params) -> None:
    """Change the first layer so that its output at time t is its former output at time 1 - t.

    cos(f - f t) and sin(f - f t) are linear in cos(f t) and sin(f t).
    """
    cosines, sines = np.split(layer["kernel"].astype(np.float64), 2)
    freqs = 10000.0 ** -(np.arange(len(cosines)) / len(cosines))[:, None]
    layer["kernel"] = np.concatenate([
        np.cos(freqs) * cosines + np.sin(freqs) * sines,
        np.sin(freqs) * cosines - np.cos(freqs) * sines,
    ])  # fmt: skip
