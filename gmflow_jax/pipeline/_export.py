"""The whole sampler as one file that needs jax alone to run."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from gmflow_jax._files import write_whole
from gmflow_jax.interop import Bundle, save_safetensors
from gmflow_jax.interop._convert import leaf_at, nest, paths
from gmflow_jax.models import GMDiT, from_params, functional
from gmflow_jax.pipeline._sampler import Recipe, Sampler

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_sampler(
    path: str | os.PathLike[str],
    bundle: Bundle,
    recipe: Recipe | None = None,
    num_steps: int = 32,
    platforms: Sequence[str] | None = None,
) -> pathlib.Path:
    """Writes a sampler by `jax.export`, for any batch size, and its parameters beside it.

    To run it, without this package::

        sampler = jax.export.deserialize(bytearray(open("sampler.jaxexport", "rb").read()))
        params = safetensors.numpy.load_file("sampler.safetensors")
        images = sampler.call(params, seed, indices, labels, guidance_scale)

    with a uint32 seed, int32 `indices` and `labels` [B] and a float32 guidance scale (without meaning
    where the recipe is unguided). Image i of a seed is that of the pipeline; uint8 images [B, H, W, 3].

    Args:
      path: Where the sampler goes, NAME.jaxexport. The parameters, which may be larger than such a file
        can hold, go to NAME.safetensors.
      bundle: Networks with an autoencoder; from `load_bundle`, to compute as the pipeline does.
      recipe: What is compiled; the authors' by default.
      num_steps: Steps of the solver.
      platforms: Of 'cpu', 'cuda', 'rocm', 'tpu'; by default the current one.

    Returns:
      The path of the parameters.

    Raises:
      ValueError: If a network is missing, or an option cannot work.
    """
    if bundle.model is None or bundle.autoencoder is None:
        raise ValueError("A sampler of images needs a transformer and an autoencoder; load both.")
    if num_steps < 1:
        raise ValueError(f"num_steps is {num_steps}, but must be at least 1.")
    unknown = sorted(set(platforms or ()) - set(_PLATFORMS))
    if unknown:
        raise ValueError(f"There is no platform {unknown[0]!r}; known are {', '.join(_PLATFORMS)}.")
    path = pathlib.Path(path)
    if path.suffix != ".jaxexport" or path.is_dir():
        raise ValueError(f"{path} must be a file that ends in .jaxexport, beside which the parameters go.")
    # Written out attention, which all platforms know.
    config = dataclasses.replace(bundle.config, attention="xla")
    bundle = dataclasses.replace(bundle, model=from_params(GMDiT, config, bundle.params))
    sampler = Sampler(bundle, recipe or Recipe())
    tree = {name: functional(network)[1] for name, network in bundle.networks.items()}
    params = {"/".join(keys): leaf_at(tree, keys) for keys in paths(tree)}

    def sample(params: dict[str, Any], seed, indices, labels, guidance_scale):
        nested = nest({tuple(name.split("/")): leaf for name, leaf in params.items()})
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), indices)
        x = sampler.sample(nested, keys, labels, guidance_scale, sampler.times(num_steps))
        # One image at a time, to bound memory: the size of the batch is not known here.
        return jax.lax.map(lambda latent: sampler.images(nested, latent[None])[0], x)

    batch = jax.ShapeDtypeStruct(jax.export.symbolic_shape("batch"), jnp.int32)
    seed, scale = jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((), jnp.float32)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    exported = jax.export.export(jax.jit(sample), platforms=platforms)(shapes, seed, batch, batch, scale)
    serialized, weights = exported.serialize(), path.with_suffix(".safetensors")
    write_whole(weights, lambda target: save_safetensors(target, params))
    write_whole(path, lambda target: target.write_bytes(serialized))
    return weights
