"""Folders in the layout of diffusers, in which the authors publish their networks."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from flax import nnx

from gmflow_jax._files import is_address, to_path, write_folder
from gmflow_jax.interop import _diffusers_config as configs
from gmflow_jax.interop import _torch_params as names
from gmflow_jax.interop._bundle import Bundle, Network
from gmflow_jax.interop._convert import Params, Tensors, to_device
from gmflow_jax.interop._diffusers_files import (
    VARIANTS,
    WEIGHTS,
    checked_dtype,
    read_json,
    stored_dtype,
    weight_files,
    write_json,
)
from gmflow_jax.interop._safetensors import TensorFiles, save_safetensors
from gmflow_jax.models import (
    AutoencoderKL,
    AutoencoderKLConfig,
    GMDiT,
    GMDiTConfig,
    SpectrumMLP,
    SpectrumMLPConfig,
    abstract,
    from_params,
    functional,
)


class _Part(NamedTuple):
    """Description of one network of a folder.

    Attributes:
      field: name of the network's attribute of `Bundle`.
      class_name: its class in PyTorch.
      library: the module that holds this class.
      model_class: its class here.
      config_class: class of its configuration.
      read: maps config.json and its path to fields of the configuration.
      write: maps the configuration to config.json.
      from_torch: maps tensors and the configuration to parameters.
      to_torch: maps parameters and the configuration to tensors.
    """

    field: str
    class_name: str
    library: str
    model_class: Callable[[Any, nnx.Rngs], Network]
    config_class: type
    read: Callable[[Mapping[str, Any], str], dict[str, Any]]
    write: Callable[[Any], configs.Json]
    from_torch: Callable[[Mapping[str, np.ndarray], Any], Params]
    to_torch: Callable[[Params, Any], Tensors]


_LIBRARY = "lib.models.architecture.gmflow"
_LAST = "model_index.json"  # without it, a folder of several networks is not loaded
_PARTS = {
    "transformer": _Part(
        "model", "GMDiTTransformer2DModel", _LIBRARY, GMDiT, GMDiTConfig,
        configs.read_transformer, configs.write_transformer, names.gm_dit_from_torch, names.gm_dit_to_torch,
    ),
    "spectrum_net": _Part(
        "spectrum", "SpectrumMLP", _LIBRARY, SpectrumMLP, SpectrumMLPConfig,
        configs.read_spectrum, configs.write_spectrum,
        names.spectrum_mlp_from_torch, names.spectrum_mlp_to_torch,
    ),
    "vae": _Part(
        "autoencoder", "AutoencoderKL", "diffusers", AutoencoderKL, AutoencoderKLConfig,
        configs.read_autoencoder, configs.write_autoencoder,
        names.autoencoder_from_torch, names.autoencoder_to_torch,
    ),
}  # fmt: skip


def load_diffusers(folder: str | os.PathLike[str], dtype: Any = None) -> Bundle:
    """Load a folder that diffusers wrote, such as the authors' `Lakonik/gmflow_imagenet_k8_ema`.

    Reads the subfolders `transformer/`, `spectrum_net/`, `vae/` and `scheduler/`, where each may be
    missing, or the folder of a single network with its config.json. Weights are safetensors, in one file
    or in shards with an index. Tensors are read one at a time, so the peak of memory is little above the
    size of the parameters.

    Args:
      folder: the folder with model_index.json, or the folder of one network. As for all files here, it may be
        an address such as gs://bucket/folder, which needs the extra `buckets`.
      dtype: type of the parameters, 'float32', 'bfloat16' or 'float16'. None keeps the stored type; if
        there are several files, it reads the float32 one. The networks compute in float32 unless you
        change their configurations.

    Returns:
      The networks.

    Raises:
      ValueError: if the folder does not have this layout, a file is incomplete, or a tensor is missing,
        left over or of a wrong shape.

    Source:
      diffusers' folder layout; the module names of the authors' code.

    Example:
      >>> import tempfile
      >>> import jax
      >>> from gmflow_jax import interop, models
      >>> config = models.GMDiTConfig(input_size=4, hidden_size=16, depth=1, num_heads=2, num_classes=2)
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     interop.save_diffusers(folder, interop.init_bundle(jax.random.key(0), config))
      ...     bundle = interop.load_diffusers(folder)
      >>> bundle.config.num_heads, bundle.spectrum, bundle.params["class_embed"]["embedding"].shape
      (2, None, (3, 16))
    """
    folder, param_dtype = to_path(folder), checked_dtype(dtype)
    if not folder.is_dir():
        raise ValueError(
            f"There is no folder {folder}. Download one (python -m experiments.download --help) "
            "and give its path."
        )
    if (folder / _LAST).is_file():
        index = read_json(folder / _LAST)
        found = {name: part for name, part in _PARTS.items() if (folder / name).is_dir()}
        networks = {part.field: _load_part(part, folder / name, param_dtype) for name, part in found.items()}
        if not networks:
            raise ValueError(f"{folder} has none of the folders {', '.join(_PARTS)}; download it again.")
        bundle = Bundle(id2label=_id2label(index, folder), **_scheduler(folder / "scheduler"))
        return dataclasses.replace(bundle, **networks)
    if (folder / "config.json").is_file():
        part = _part_of(read_json(folder / "config.json"), folder)
        return dataclasses.replace(Bundle(), **{part.field: _load_part(part, folder, param_dtype)})
    raise ValueError(
        f"{folder} holds neither model_index.json nor config.json, so it is not a diffusers folder; give the "
        f"folder that holds model_index.json, or one of {', '.join(_PARTS)} inside it."
    )


def read_num_calls(folder: str | os.PathLike[str]) -> int | None:
    """Read the number of calls that the network of a diffusers folder was distilled for.

    Args:
      folder: the folder with model_index.json.

    Returns:
      `Bundle.num_calls`, without loading the networks.

    Raises:
      ValueError: if scheduler_config.json cannot be used.
    """
    return _scheduler(to_path(folder) / "scheduler")["num_calls"]


def save_diffusers(folder: str | os.PathLike[str], bundle: Bundle) -> None:
    """Write a folder that the authors' PyTorch pipeline and `load_diffusers` can read.

    Names, shapes and types of the tensors are the authors'. bfloat16 parameters are written to `.bf16.`
    files, as diffusers names this variant. The folder appears under its name when it is complete; in a bucket
    model_index.json, without which it cannot be loaded, is written last.

    Args:
      folder: the folder to write, new or empty; may be an address.
      bundle: the networks.

    Raises:
      ValueError: if the folder exists and is not empty, the authors' code has no such network, or shift or
        num_calls is out of range.
    """
    folder = to_path(folder)
    check_new(folder)
    networks = {n: bundle.networks[p.field] for n, p in _PARTS.items() if p.field in bundle.networks}
    if not networks:
        raise ValueError("The bundle holds no network, so there is nothing to save.")
    files = {name: _PARTS[name].write(network.config) for name, network in networks.items()}
    scheduler = configs.write_scheduler(bundle.shift, bundle.num_calls)

    def write(temporary: pathlib.Path) -> None:
        for name, config in files.items():
            (temporary / name).mkdir(parents=True)
            write_json(temporary / name / "config.json", config)
            _save_weights(temporary / name, _PARTS[name], networks[name])
        (temporary / "scheduler").mkdir(parents=True)
        write_json(temporary / "scheduler" / "scheduler_config.json", scheduler)
        write_json(temporary / _LAST, _index(files, bundle))

    write_folder(folder, write, last=_LAST)


def check_new(folder: pathlib.Path) -> None:
    """Raise ValueError if a folder has files, unless `save_diffusers` left it unfinished in a bucket."""
    if not folder.exists():
        return
    names = {child.name for child in folder.iterdir()} if folder.is_dir() else None
    unfinished = is_address(folder) and names is not None and names <= {*_PARTS, "scheduler"}
    if names is None or (names and not unfinished):
        raise ValueError(f"{folder} exists and is not empty; give a new folder; nothing is overwritten.")


def _index(files: Mapping[str, configs.Json], bundle: Bundle) -> configs.Json:
    index: configs.Json = {"_class_name": "GMDiTPipeline", "_diffusers_version": configs.VERSION}
    if bundle.id2label:
        index["id2label"] = {str(i): words for i, words in sorted(bundle.id2label.items())}
    index["scheduler"] = ["lib.models.diffusions.schedulers.gmflow_sde", "GMFlowSDEScheduler"]
    return index | {name: [_PARTS[name].library, config["_class_name"]] for name, config in files.items()}


def _save_weights(folder: pathlib.Path, part: _Part, network: Network) -> None:
    state = part.to_torch(functional(network)[1], network.config)
    variant = VARIANTS[network.config.param_dtype]
    save_safetensors(folder / f"{WEIGHTS}{variant}.safetensors", state)


def _load_part(part: _Part, folder: pathlib.Path, dtype: str | None) -> Network:
    where = folder / "config.json"
    content = read_json(where)
    tensors = TensorFiles(weight_files(folder, dtype))
    param_dtype = dtype or stored_dtype(tensors)
    try:
        config = part.config_class(**part.read(content, str(where)), param_dtype=param_dtype)
        abstract(part.model_class, config)
    except TypeError as error:  # such as a null for a number
        raise ValueError(f"{where} holds a value of a wrong type ({error}); correct it.") from error
    try:
        params = part.from_torch(tensors, config)
    except ValueError as error:
        raise ValueError(f"The weights in {folder} do not match its config.json. {error}") from error
    return from_params(part.model_class, config, to_device(params))


def _part_of(config: Mapping[str, Any], folder: pathlib.Path) -> _Part:
    name = configs.class_name(config)
    for part in _PARTS.values():
        if name.startswith(part.class_name):
            return part
    known = ", ".join(part.class_name for part in _PARTS.values())
    raise ValueError(
        f"{folder} holds a {name or 'network without _class_name'}; known are {known}. Give a folder of one "
        "of these."
    )


def _id2label(index: Mapping[str, Any], folder: pathlib.Path) -> dict[int, str]:
    labels = index.get("id2label") or {}
    if not isinstance(labels, dict) or not all(key.isdecimal() for key in labels):
        raise ValueError(f"id2label in {folder / 'model_index.json'} does not map ids to names; correct it.")
    return {int(key): str(words) for key, words in labels.items()}


def _scheduler(folder: pathlib.Path) -> dict[str, Any]:
    path = folder / "scheduler_config.json"
    return configs.read_scheduler(read_json(path) if path.is_file() else {}, str(path))
