"""Teachers of distilled runs: networks from a run, a diffusers folder, or a plain SiT or DiT."""

import dataclasses
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_collections
import numpy as np

from experiments.runs import bundles, folder, networks
from experiments.tasks.make import held_out_of
from gmflow_jax import data, gm, interop, models
from gmflow_jax._arguments import append_axes
from gmflow_jax._files import to_path


class Teacher(NamedTuple):
    """A teacher's network.

    Attributes:
      apply: apply(params, x_t, t, labels), or without labels, returns a mixture over the velocity, or the
        velocity.
      params: its parameters.
      network: its configuration.
      task: task of the run; None if the network is from elsewhere.
      latents: metadata of the latents that the run was trained on; None if there are none.
      autoencoder: the autoencoder beside the network; None if there is none.
      source: where it was loaded from.
      predicts_noise: whether the network predicts the noise of DDPM, see `make_apply`.
      held_out: number of digits that the run was not trained on, see `DigitsTask`.
    """

    apply: Callable
    params: Any
    network: models.GMDiTConfig | models.GMMLPConfig
    task: str | None
    latents: data.LatentMetadata | None
    autoencoder: models.AutoencoderKL | None
    source: str
    predicts_noise: bool = False
    held_out: int = 0


def load_teacher(config: ml_collections.ConfigDict) -> Teacher:
    """Load the network that `config.teacher` names.

    Args:
      config: configuration of a distilled run. `config.teacher` is the folder of a run, a diffusers folder,
        or a safetensors file with the names of the original SiT or DiT.

    Returns:
      The teacher.

    Raises:
      ValueError: if no teacher is given, it cannot be loaded, or it was itself distilled.
    """
    path = find_teacher(config)
    if path.is_dir() and folder.is_run(path):
        return _from_run(str(path))
    predicts_noise = path.is_file() and config.distillation.kind == "dit"
    if path.is_file():
        bundle = interop.load_dit(
            path, config.distillation.kind, num_components=1, num_heads=_num_heads(config)
        )
    else:
        bundle = interop.load_diffusers(path)
    if bundle.model is None:
        raise ValueError(f"The teacher {path} holds no transformer; give a folder that has one.")
    _check_calls(str(path), bundle.num_calls)
    network, (_, params) = bundle.model.config, models.functional(bundle.model)
    if path.is_file():  # a plain network, for which load_dit made up a standard deviation
        network = dataclasses.replace(network, constant_log_std=0.0)
        params = {name: value for name, value in params.items() if name != "log_std"}
    apply = make_apply(network, predicts_noise)
    return Teacher(apply, params, network, None, None, bundle.autoencoder, str(path), predicts_noise)


def find_teacher(config: ml_collections.ConfigDict) -> pathlib.Path:
    """Return the path that `config.teacher` names.

    Unlike `load_teacher`, it needs no other process. So a process may raise alone.

    Raises:
      ValueError: if no teacher is given, there is none, or it is a run that was itself distilled.
    """
    if not config.teacher:
        raise ValueError(
            "This configuration distils a teacher, but teacher is empty; give --config.teacher=WORKDIR, the "
            "folder of a run, or a diffusers folder, or a safetensors file of a SiT or DiT."
        )
    path = to_path(config.teacher)
    if not path.exists():
        raise ValueError(f"There is no teacher {path}; give the folder of a run, or train it first.")
    if path.is_dir() and folder.is_run(path):
        run = folder.read_config(path)
        _check_calls(str(path), run.get("num_calls"), run.get("teacher"))
    return path


def make_apply(
    network: models.GMDiTConfig | models.GMMLPConfig, predicts_noise: bool = False
) -> Callable:
    """Make the function of a teacher's network, see `Teacher.apply`.

    Args:
      network: configuration of the network.
      predicts_noise: whether it predicts the noise at the time steps of DDPM with a linear schedule, as the
        published DiTs do.
    """
    model = models.GMDiT if isinstance(network, models.GMDiTConfig) else models.GMMLP
    apply, _ = models.abstract(model, network)
    return velocity_of_noise(apply) if predicts_noise else apply


def velocity_of_noise(apply: Callable) -> Callable:
    """Make the velocity of a network that predicts the noise at the time steps of DDPM.

    The path of DDPM is that of flow matching, x_t = (1 - t) x_0 + t noise, divided by its length
    sqrt((1 - t)^2 + t^2). The step is interpolated between those whose noise has the same share.

    Args:
      apply: apply(params, x, step / 1000, ...) predicts the noise at one of 1000 steps, whose variances
        increase linearly from 1e-4 to 0.02.

    Returns:
      velocity(params, x_t, t, ...), the velocity noise - x_0. At times above the last step, t = 0.994, the
      network gets the last step.

    Source:
      Ho et al. 2020 (arXiv 2006.11239); Peebles and Xie 2023 (arXiv 2212.09748).
    """
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))  # the share of the variance that is data's
    times = np.sqrt(1 - kept) / (np.sqrt(kept) + np.sqrt(1 - kept))

    def velocity(params, x_t, t, *labels):
        step = jnp.interp(t, jnp.asarray(times, jnp.float32), jnp.arange(1000, dtype=jnp.float32))
        share = append_axes(t, x_t.ndim - 1)
        scaled = x_t / jnp.sqrt((1 - share) ** 2 + share**2)
        noise = gm.mean(apply(params, scaled, step / 1000, *labels))
        return (noise - x_t) / jnp.maximum(1 - share, 1 - float(times[-1]))

    return velocity


def network_params(config: ml_collections.ConfigDict, params: Any) -> Any:
    """Return the parameters of a run's network, without those of its spectrum."""
    return params["network"] if config.get("spectrum") else params


def _from_run(workdir: str) -> Teacher:
    config = folder.read_config(workdir)
    params = network_params(config, bundles.load_average(workdir, config)[0])
    network = networks.network_config(config)
    latents = bundles.latents_of(workdir)
    held_out = held_out_of(config)
    return Teacher(
        make_apply(network), params, network, config.task, latents, None, workdir, held_out=held_out
    )


def _num_heads(config: ml_collections.ConfigDict) -> int | None:
    """Return the heads of a teacher in a file, which does not hold them; None if the width is published."""
    published = {width for width, _, _ in models.DIT_SIZES.values()}
    student = config.network
    if config.distillation.init == "scratch" or student.get("hidden_size") in published:
        return None
    return student.get("num_heads")  # a student that starts from the teacher has as many


def describe_calls(num_calls: int) -> str:
    """Return '1 call', or '2 calls' and so on."""
    return "1 call" if num_calls == 1 else f"{num_calls} calls"


def _check_calls(source: str, num_calls: int | None, teacher: str | None = None) -> None:
    if num_calls is not None:
        whose = f", {teacher}" if teacher else ""
        raise ValueError(
            f"The teacher {source} was itself distilled for {describe_calls(num_calls)}, so it predicts "
            "velocities only at the times of these calls, but a teacher is needed at all times; give its own "
            f"teacher{whose}."
        )
