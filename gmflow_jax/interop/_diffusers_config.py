"""Conversion between the networks' configurations and the config.json files of diffusers."""

import math
from collections.abc import Mapping
from typing import Any

from gmflow_jax._arguments import check_number, whole_number
from gmflow_jax.models import AutoencoderKLConfig, GMDiTConfig, SpectrumMLPConfig

Json = dict[str, Any]

HEADS = {"joint": "_GMDiTTransformer2DModel", "separate": "_GMDiTTransformer2DModelV2"}
VERSION = "0.30.0.dev0"

# The fields that may differ between networks: their names in config.json, and ours.
_TRANSFORMER = {
    "num_gaussians": "num_components",
    "constant_logstd": "constant_log_std",
    "logstd_inner_dim": "log_std_dim",
    "gm_num_logstd_layers": "log_std_layers",
    "num_attention_heads": "num_heads",
    "in_channels": "in_channels",
    "num_layers": "depth",
    "sample_size": "input_size",
    "patch_size": "patch_size",
    "num_embeds_ada_norm": "num_classes",
}
_AUTOENCODER = {
    "in_channels": "in_channels",
    "out_channels": "out_channels",
    "latent_channels": "latent_channels",
    "block_out_channels": "block_channels",
    "layers_per_block": "layers_per_block",
    "norm_num_groups": "num_groups",
    "scaling_factor": "scaling_factor",
}
# The values that our networks are fixed to. A file may leave these fields out, but not give other values.
_TRANSFORMER_FIXED = {
    "attention_bias": True,
    "activation_fn": "gelu-approximate",
    "norm_type": "ada_norm_zero",
    "norm_elementwise_affine": False,
    "norm_eps": 1e-5,
    "upcast_attention": False,
}
_AUTOENCODER_FIXED = {
    "act_fn": "silu",
    "mid_block_add_attention": True,
    "use_quant_conv": True,
    "use_post_quant_conv": True,
    "shift_factor": None,
    "latents_mean": None,
    "latents_std": None,
}
# Fields that are written but not used: they change nothing, or only training in PyTorch.
_TRANSFORMER_UNUSED = {"class_dropout_prob": 0.0, "dropout": 0.0, "norm_num_groups": 32, "out_channels": None}


def read_transformer(json: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert a config.json to fields of `GMDiTConfig`.

    Args:
      json: content of the file.
      where: path of the file, for error messages.

    Returns:
      The fields without the types.

    Raises:
      ValueError: if a field is missing, or describes a network that `GMDiT` cannot be.
    """
    _check_fixed(json, _TRANSFORMER_FIXED, where)
    fields = _renamed(json, _TRANSFORMER, where)
    if json.get("out_channels") not in (None, fields["in_channels"]):
        raise ValueError(
            f"{where} says out_channels {json['out_channels']}, but a mixture over the velocity has the "
            f"{fields['in_channels']} channels of its input; these weights belong to another network."
        )
    fields["hidden_size"] = fields["num_heads"] * _value(json, "attention_head_dim", where)
    heads = {name.strip("_"): head for head, name in HEADS.items()}
    fields["head"] = heads[_class_of(json, heads, where)]
    return fields


def write_transformer(config: GMDiTConfig) -> Json:
    """Convert a configuration to the content of config.json.

    Raises:
      ValueError: if the authors' code has no such network.
    """
    height, width = config.input_height_width
    if config.time_scale != 1000 or config.mlp_ratio != 4 or height != width:
        raise ValueError(
            f"The network has time_scale {config.time_scale}, mlp_ratio {config.mlp_ratio} and input_size "
            f"{height} x {width}, but the authors' PyTorch code supports only time_scale 1000, mlp_ratio 4 "
            "and square images; save this network as a training checkpoint instead."
        )
    fields = {theirs: getattr(config, ours) for theirs, ours in _TRANSFORMER.items()}
    fields["sample_size"] = height
    fields["attention_head_dim"] = config.hidden_size // config.num_heads
    return _with_class(HEADS[config.head], fields | _TRANSFORMER_UNUSED | _TRANSFORMER_FIXED)


def read_spectrum(json: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert a config.json to fields of `SpectrumMLPConfig`; see `read_transformer`."""
    base_size = _value(json, "base_size", where)
    if not isinstance(base_size, list) or len(base_size) != 3:
        raise ValueError(
            f"{where} says base_size = {base_size!r}, but must list channels, height and width; correct it."
        )
    channels, *size = base_size
    return {
        "base_size": tuple(size),
        "num_channels": channels,
        "widths": tuple(_value(json, "layers", where)),
    }


def write_spectrum(config: SpectrumMLPConfig) -> Json:
    """Convert a configuration to the content of config.json."""
    base_size = [config.num_channels, *config.base_height_width]
    return _with_class("_SpectrumMLP", {"base_size": base_size, "layers": list(config.widths)})


def read_autoencoder(json: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert a config.json to fields of `AutoencoderKLConfig`; see `read_transformer`."""
    json = {"scaling_factor": AutoencoderKLConfig.scaling_factor, **json}  # old files leave it out
    _check_fixed(json, _AUTOENCODER_FIXED, where)
    stages = [*json.get("down_block_types", []), *json.get("up_block_types", [])]
    other = sorted(set(stages) - {"DownEncoderBlock2D", "UpDecoderBlock2D"})
    if other:
        raise ValueError(f"{where} has stages of type {', '.join(other)}, which AutoencoderKL does not have.")
    fields = _renamed(json, _AUTOENCODER, where)
    return fields | {"block_channels": tuple(fields["block_channels"])}


def write_autoencoder(config: AutoencoderKLConfig) -> Json:
    """Convert a configuration to the content of config.json."""
    fields = {theirs: getattr(config, ours) for theirs, ours in _AUTOENCODER.items()}
    num_stages = len(config.block_channels)
    stages = {
        "block_out_channels": list(config.block_channels),
        "down_block_types": ["DownEncoderBlock2D"] * num_stages,
        "up_block_types": ["UpDecoderBlock2D"] * num_stages,
    }
    return _with_class("AutoencoderKL", fields | stages | _AUTOENCODER_FIXED)


def read_scheduler(json: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Convert scheduler_config.json to fields of `Bundle`.

    Args:
      json: content of the file.
      where: path of the file, for error messages.

    Returns:
      The shift of the time grid, and the number of calls that the network was distilled for, or None.

    Raises:
      ValueError: if a value cannot be used.
    """
    shift, num_calls = json.get("shift", 1.0), json.get("num_calls")
    # bool is a subclass of int, and Python reads Infinity, too.
    if type(shift) not in (int, float) or not 0 < shift < math.inf:
        raise ValueError(f"{where} says shift = {shift!r}, but it must be a positive number; correct it.")
    if num_calls is not None and (type(num_calls) is not int or num_calls < 1):
        raise ValueError(
            f"{where} says num_calls = {num_calls!r}, but it must be a whole number, at least 1; correct it."
        )
    return {"shift": float(shift), "num_calls": num_calls}


def write_scheduler(shift: float, num_calls: int | None = None) -> Json:
    """Make the content of scheduler_config.json for fields of `Bundle`; the inverse of `read_scheduler`.

    Raises:
      ValueError: if a value cannot be used.
    """
    check_number("shift", shift, "(0, inf)")
    fields = {
        "num_train_timesteps": 1000, "shift": float(shift), "output_mode": "sample", "variance_mode": "large",
    }  # fmt: skip
    if num_calls is not None:
        fields["num_calls"] = whole_number("num_calls", num_calls, 1)
    return _with_class("GMFlowSDEScheduler", fields)


def _with_class(name: str, fields: Json) -> Json:
    return {"_class_name": name, "_diffusers_version": VERSION} | dict(sorted(fields.items()))


def class_name(json: Mapping[str, Any]) -> str:
    """Return the class name in a config.json without underscores, which some versions write in front."""
    return str(json.get("_class_name", "")).strip("_")


def _class_of(json: Mapping[str, Any], known: Mapping[str, str], where: str) -> str:
    name = class_name(json)
    if name not in known:
        raise ValueError(
            f"{where} describes a {name or 'network without _class_name'}; known are {', '.join(known)}. "
            "Give a folder of one of these."
        )
    return name


def _renamed(json: Mapping[str, Any], names: Mapping[str, str], where: str) -> dict[str, Any]:
    return {ours: _value(json, theirs, where) for theirs, ours in names.items()}


def _value(json: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in json:
        raise ValueError(f"{where} does not say {name}, which the network depends on; add it.")
    return json[name]


def _check_fixed(json: Mapping[str, Any], fixed: Mapping[str, Any], where: str) -> None:
    for name, value in fixed.items():
        if name in json and json[name] != value:
            raise ValueError(
                f"{where} says {name} = {json[name]!r}, but this network supports {value!r} only; these "
                "weights belong to another network."
            )
