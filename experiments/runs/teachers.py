"""Teachers of distilled runs: networks from a run, a diffusers folder, or a plain SiT or DiT."""

import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import ml_collections

from experiments.common import files
from experiments.runs import bundles, folder, networks
from gmflow_jax import data, interop, models


class Teacher(NamedTuple):
    """A teacher's network.

    Attributes:
      apply: apply(params, x_t, t, labels), or without labels, returns a mixture over the velocity.
      params: its parameters.
      network: its configuration.
      task: task of the run; None if the network is from elsewhere.
      latents: metadata of the latents that the run was trained on; None if there are none.
      autoencoder: the autoencoder beside the network; None if there is none.
      source: where it was loaded from.
    """

    apply: Callable
    params: Any
    network: models.GMDiTConfig | models.GMMLPConfig
    task: str | None
    latents: data.LatentMetadata | None
    autoencoder: models.AutoencoderKL | None
    source: str


def load_teacher(config: ml_collections.ConfigDict) -> Teacher:
    """Load the network that `config.teacher` names.

    Args:
      config: configuration of a distilled run. `config.teacher` is the folder of a run, a diffusers folder,
        or a safetensors file with the names of the original SiT or DiT.

    Returns:
      The teacher.

    Raises:
      ValueError: if no teacher is given, or it cannot be loaded.
    """
    if not config.teacher:
        raise ValueError(
            "This configuration distils a teacher, but teacher is empty; give --config.teacher=WORKDIR, the "
            "folder of a run, or a diffusers folder, or a safetensors file of a SiT."
        )
    path = pathlib.Path(config.teacher)
    if not path.exists():
        raise ValueError(f"There is no teacher {path}; give the folder of a run, or train it first.")
    if path.is_file():
        bundle = interop.load_dit(path, config.distillation.kind, num_components=1)
    elif is_run(path):
        return _from_run(str(path))
    else:
        bundle = interop.load_diffusers(path)
    if bundle.model is None:
        raise ValueError(f"The teacher {path} holds no transformer; give a folder that has one.")
    apply, params = models.functional(bundle.model)
    return Teacher(apply, params, bundle.model.config, None, None, bundle.autoencoder, str(path))


def is_run(path: pathlib.Path) -> bool:
    """Return whether a folder is that of a run, whose config.json names a task."""
    return (path / "config.json").is_file() and "task" in files.read_json(path / "config.json")


def _from_run(workdir: str) -> Teacher:
    config = folder.read_config(workdir)
    params, _ = bundles.load_average(workdir, config)
    if config.get("spectrum"):
        params = params["network"]
        config = ml_collections.ConfigDict({k: v for k, v in config.items() if k != "spectrum"})
    apply, _ = networks.abstract_network(config)
    network, latents = networks.network_config(config), bundles.latents_of(workdir)
    return Teacher(apply, params, network, config.task, latents, None, workdir)
