"""Export of a whole sampler as one file that runs with JAX alone."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from gmflow_jax._arguments import whole_number
from gmflow_jax._files import to_path, write_bytes
from gmflow_jax.interop import Bundle, save_safetensors
from gmflow_jax.interop._convert import Params, leaf_at, nest, paths
from gmflow_jax.models import GMDiT, from_params, functional
from gmflow_jax.pipeline._sampler import Recipe, Sampler
from gmflow_jax.pipeline._usual import usual_recipe, warn_of_steps

_PLATFORMS = ("cpu", "cuda", "rocm", "tpu")


def export_sampler(
    path: str | os.PathLike[str],
    bundle: Bundle,
    recipe: Recipe | None = None,
    num_steps: int | None = None,
    platforms: Sequence[str] | None = None,
) -> pathlib.Path:
    """Write a sampler for any batch size by `jax.export`, and its parameters to a second file.

    To run it, without this package::

        sampler = jax.export.deserialize(bytearray(open("sampler.jaxexport", "rb").read()))
        params = safetensors.numpy.load_file("sampler.safetensors")
        images = sampler.call(params, seed, indices, labels, guidance_scale)

    Here `seed` is a uint32 scalar, `indices` and `labels` are int32 [B], and `guidance_scale` is a float32
    scalar, which is ignored if the recipe is not guided. The labels are not checked; those that are no
    classes give useless images. The uint8 images [B, H, W, 3] are those of the
    pipeline with the same seed and indices.

    The file can be read by newer releases of JAX for 6 months after the export, and by releases that are up
    to 3 weeks older. Export again after 6 months.

    Args:
      path: path or address of the sampler, NAME.jaxexport. The parameters, which may exceed the size limit of
        this format, go to NAME.safetensors.
      bundle: networks with an autoencoder. Take them from `load_bundle` to compute as the pipeline does.
      recipe: solver, guidance and their options; by default the authors' for 32 steps, or those of a network
        that was distilled for few calls.
      num_steps: number of steps of the solver; by default 32, or as many as the network was distilled for.
        Another number than that gives a warning.
      platforms: platforms to export for, of 'cpu', 'cuda', 'rocm' and 'tpu'; the current one by default.

    Returns:
      The path of the parameters.

    Raises:
      ValueError: if a network is missing, or an option cannot work.
    """
    path = to_path(path)
    if bundle.model is None or bundle.autoencoder is None:
        raise ValueError("A sampler of images needs a transformer and an autoencoder; load both.")
    num_steps = None if num_steps is None else whole_number("num_steps", num_steps, 1)
    recipe = recipe or usual_recipe(bundle, num_steps)
    num_steps = num_steps or bundle.num_calls or 32
    warn_of_steps(bundle.num_calls, num_steps)
    _check_path_and_platforms(path, platforms)
    # JAX does not serialise cuDNN's kernel, which 'auto' may choose.
    config = dataclasses.replace(bundle.model.config, attention="xla")
    model = from_params(GMDiT, config, functional(bundle.model)[1])
    bundle = dataclasses.replace(bundle, model=model)
    tree = {name: functional(network)[1] for name, network in bundle.networks.items()}
    params = {"/".join(keys): leaf_at(tree, keys) for keys in paths(tree)}
    sample = _sample_function(Sampler(bundle, recipe), num_steps)

    batch = jax.ShapeDtypeStruct(jax.export.symbolic_shape("batch"), jnp.int32)
    seed, scale = jax.ShapeDtypeStruct((), jnp.uint32), jax.ShapeDtypeStruct((), jnp.float32)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    exported = jax.export.export(jax.jit(sample), platforms=platforms)(shapes, seed, batch, batch, scale)
    serialized, weights = exported.serialize(), path.with_suffix(".safetensors")
    save_safetensors(weights, params)
    write_bytes(path, bytes(serialized))
    return weights


def _sample_function(sampler: Sampler, num_steps: int) -> Callable[..., jax.Array]:
    """Make the function to export, whose parameters are a flat dict."""

    def sample(
        params: Params, seed: jax.Array, indices: jax.Array, labels: jax.Array, guidance_scale: jax.Array
    ) -> jax.Array:
        nested = nest({tuple(name.split("/")): leaf for name, leaf in params.items()})
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), indices)
        x = sampler.sample(nested, keys, labels, guidance_scale, sampler.times(num_steps))
        # One image at a time, to bound memory, because the batch size is unknown here.
        return jax.lax.map(lambda latent: sampler.images(nested, latent[None])[0], x)

    return sample


def _check_path_and_platforms(path: pathlib.Path, platforms: Sequence[str] | None) -> None:
    unknown = sorted(set(platforms or ()) - set(_PLATFORMS))
    if unknown:
        raise ValueError(f"There is no platform {unknown[0]!r}; known are {', '.join(_PLATFORMS)}.")
    if path.suffix != ".jaxexport" or path.is_dir():
        raise ValueError(
            f"{path} must be a file that ends in .jaxexport; the parameters are written next to it."
        )
