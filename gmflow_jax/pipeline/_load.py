"""Loading of diffusers folders for sampling."""

import dataclasses
import os
from typing import Any

import jax

from gmflow_jax.interop import Bundle, load_diffusers
from gmflow_jax.models import GMDiT, from_params, functional
from gmflow_jax.pipeline._pipeline import Pipeline


def load(folder: str | os.PathLike[str], dtype: Any = None, **options: Any) -> Pipeline:
    """Load a diffusers folder, such as the authors' published one, as a pipeline.

    Args:
      folder: the folder, see `interop.load_diffusers`.
      dtype: type of the parameters; None chooses it for the devices, see `load_bundle`.
      **options: further arguments of `Pipeline`.

    Returns:
      The pipeline.

    Raises:
      ValueError: if the folder cannot be loaded.

    Example:
      Write a tiny network with random weights, load it and draw one image:

      >>> import tempfile
      >>> import jax
      >>> from gmflow_jax import interop, models, pipeline
      >>> config = models.GMDiTConfig(input_size=4, hidden_size=16, depth=1, num_heads=2, num_classes=2)
      >>> autoencoder_config = models.AutoencoderKLConfig(
      ...     block_channels=(8,), layers_per_block=1, num_groups=4
      ... )
      >>> bundle = interop.init_bundle(
      ...     jax.random.key(0, impl="rbg"),  # compiles faster than the default implementation
      ...     config,
      ...     autoencoder_config=autoencoder_config,
      ...     id2label={0: "jay", 1: "magpie"},
      ... )
      >>> with tempfile.TemporaryDirectory() as folder:
      ...     interop.save_diffusers(folder, bundle)
      ...     pipe = pipeline.load(folder)
      >>> images = pipe(["magpie"], num_steps=2, progress=False)
      >>> images.shape, images.dtype
      ((1, 4, 4, 3), dtype('uint8'))
    """
    devices = options.get("devices")
    return Pipeline(load_bundle(folder, dtype, devices[0].platform if devices else None), **options)


def load_bundle(folder: str | os.PathLike[str], dtype: Any = None, platform: str | None = None) -> Bundle:
    """Load the networks of a diffusers folder and configure them for sampling.

    The transformer's blocks compute in the type of its parameters, or in float32 on a CPU. The
    autoencoder, the embeddings and all mixture arithmetic always compute in float32.

    Args:
      folder: the folder, see `interop.load_diffusers`.
      dtype: type of the parameters. None is the stored type, or float32 on a CPU, because sampling
        would otherwise cast the parameters, which takes time and memory.
      platform: platform that the networks will run on, such as 'cpu' or 'cuda'; JAX's default backend
        by default.

    Returns:
      The networks.

    Raises:
      ValueError: if the folder cannot be loaded.
    """
    on_cpu = (platform or jax.default_backend()) == "cpu"
    bundle = load_diffusers(folder, "float32" if dtype is None and on_cpu else dtype)
    if bundle.model is None:
        return bundle
    config = bundle.model.config
    # Unrolled blocks sample no faster on a CPU, compile for 14 s instead of 4 and take 3 GB more.
    config = dataclasses.replace(
        config, scan_layers=True, dtype="float32" if on_cpu else config.param_dtype, attention="auto"
    )
    model = from_params(GMDiT, config, functional(bundle.model)[1])
    return dataclasses.replace(bundle, model=model)
