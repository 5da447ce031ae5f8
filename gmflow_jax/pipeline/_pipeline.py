"""The pipeline: networks on all local devices, called with class names."""

import dataclasses
import numbers
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gmflow_jax.guidance import METHODS, check_guidance_scale
from gmflow_jax.interop import Bundle, load_diffusers
from gmflow_jax.models import GMDiT, from_params, functional
from gmflow_jax.pipeline._labels import label_ids
from gmflow_jax.pipeline._sampler import Recipe, Sampler
from gmflow_jax.solvers import Solver

_BATCH_PER_DEVICE = 16


class Pipeline:
    """Makes pictures of classes; batches are shared by all local devices.

    Attributes:
      bundle: The networks.
      id2label: The words of each class, by id.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        decode_batch_size: int = 4,
        devices: Sequence[jax.Device] | None = None,
    ):
        """
        Args:
          bundle: The networks; `interop.load_diffusers` makes one.
          decode_batch_size: Latents that a device decodes at a time, to bound memory.
          devices: The devices to use; all local ones by default.

        Raises:
          ValueError: If the bundle has no transformer, or one that does not fit the autoencoder.
        """
        if bundle.model is None:
            raise ValueError("These networks have no transformer, so there is nothing to sample from.")
        if decode_batch_size < 1:
            raise ValueError(f"decode_batch_size is {decode_batch_size}, but must be at least 1.")
        channels = bundle.autoencoder and bundle.autoencoder.config.latent_channels
        if channels not in (None, bundle.config.in_channels):
            raise ValueError(
                f"The autoencoder's latents have {channels} channels, but the transformer draws "
                f"{bundle.config.in_channels}; load networks that belong together."
            )
        self.bundle, self.id2label = bundle, bundle.id2label
        self._decode_batch_size = decode_batch_size
        self._mesh = Mesh(np.asarray(devices or jax.local_devices()), ("data",))
        params = {name: functional(network)[1] for name, network in bundle.networks.items()}
        self._params = jax.device_put(params, NamedSharding(self._mesh, PartitionSpec()))
        self._compiled: dict[Recipe, _Compiled] = {}

    def __call__(self, labels: Sequence[int | str], **options: Any) -> np.ndarray:
        """All that `batches` draws, as one array; see there."""
        return np.concatenate(list(self.batches(labels, **options)))

    def batches(
        self,
        labels: Sequence[int | str],
        *,
        num_steps: int = 32,
        solver: str | Solver = "gm_ode",
        order: int = 2,
        num_substeps: int = 4,
        guidance_scale: float = 0.45,
        guidance: str = "probabilistic",
        orthogonal: float = 1.0,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        spectrum: bool | None = None,
        one_batch: bool = True,
        decode: bool = True,
        progress: bool = True,
    ) -> Iterator[np.ndarray]:
        """Draws one image for each label; gives each batch once it is done. The defaults are the authors'.

        Image i depends on the seed, i and its label, not on the batch size or the number of devices.

        Args:
          labels: Class ids or words, see `label_ids`.
          num_steps: Steps of the solver.
          solver: One of `solvers.NAMES`, or a `Solver`.
          order, num_substeps, spectrum, one_batch: See `Recipe`.
          guidance_scale: Of probabilistic guidance in [0, 1), 0 is off; of 'cfg' from 1 on, 1 is off. Off
            takes half the time.
          guidance, orthogonal: `method` and `orthogonal` of `guidance.guided_denoiser`.
          seed: Of all images, from 0 to 2**32 - 1.
          indices: Which images of the seed these are, each from 0 to 2**32 - 1; by default the first.
          batch_size: Images at a time on all devices together, at least one on each; by default up to 16
            on each.
          decode: Whether to return images, or the latents as the transformer knows them.
          progress: Whether to show a bar of steps, each of which is then started on its own. Without, all
            steps of a batch are one call of the devices, compiled for each number of steps.

        Returns:
          uint8 images [n, H, W, 3]; or float32 latents [n, h, w, C]. There are as many as labels in all.

        Raises:
          ValueError: If a label is unknown, or an option cannot work.
        """
        ids = label_ids(labels, self.id2label, self.bundle.config.num_classes)
        self._check(ids, num_steps, seed, batch_size, decode)
        check_guidance_scale(guidance_scale, guidance)
        which = np.arange(len(ids)) if indices is None else np.asarray(indices)
        if which.shape != (len(ids),):
            raise ValueError(f"There are {len(ids)} labels and {which.size} indices; give one for each.")
        guided = guidance_scale != METHODS[guidance]
        recipe = Recipe(solver, order, num_substeps, guided, guidance, orthogonal, spectrum, one_batch)
        run = self._compile(recipe)
        return self._draw(run, ids, which, num_steps, guidance_scale, seed, batch_size, decode, progress)

    def _draw(self, run, ids, which, num_steps, guidance_scale, seed, batch_size, decode, progress):
        size, num_batches = self._batches(len(ids), batch_size)
        # The last batch is filled up, so that one compiled shape serves all.
        which = jnp.asarray(np.resize(which, size * num_batches), jnp.uint32)
        padded = jnp.asarray(np.resize(ids, size * num_batches), jnp.int32)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), which)
        everywhere = NamedSharding(self._mesh, PartitionSpec())
        over_devices = NamedSharding(self._mesh, PartitionSpec("data"))
        times, scale = jax.device_put((run.times(num_steps), jnp.float32(guidance_scale)), everywhere)
        with _bar(num_batches * num_steps, progress) as bar:
            for start in range(0, len(ids), size):
                batch = slice(start, start + size)
                drawn_from = jax.device_put((keys[batch], padded[batch]), over_devices)
                inputs = (self._params, *drawn_from, scale)
                x = run.latents(inputs, times, bar)
                if not np.isfinite(x).all():
                    raise ValueError(
                        f"Latents of the images from {start} on are NaN or infinite after {num_steps} steps: "
                        "the network diverges, or its weights or the guidance are not finite."
                    )
                drawn = np.asarray(run.images(self._params, x) if decode else x)
                yield drawn[: len(ids) - start]

    def _compile(self, recipe: Recipe) -> "_Compiled":
        if recipe not in self._compiled:
            sampler = Sampler(self.bundle, recipe, self._decode_batch_size)
            self._compiled[recipe] = _Compiled(sampler, self._mesh)
        return self._compiled[recipe]

    def _batches(self, num_images: int, batch_size: int | None) -> tuple[int, int]:
        """Images in a batch, a multiple of the devices, and the number of batches, filled evenly."""
        devices = self._mesh.size
        limit = max(batch_size // devices, 1) if batch_size else _BATCH_PER_DEVICE
        num_batches = -(-num_images // (limit * devices))
        per_device = -(-num_images // (num_batches * devices))
        return per_device * devices, num_batches

    def _check(self, ids, num_steps, seed, batch_size, decode) -> None:
        counts = {"num_steps": num_steps, "batch_size": batch_size, "the number of labels": len(ids)}
        for name, value in counts.items():
            if value is not None and (not isinstance(value, numbers.Integral) or value < 1):
                raise ValueError(f"{name} is {value!r}, but must be a whole number, at least 1.")
        if not isinstance(seed, numbers.Integral) or not 0 <= seed < 2**32:
            raise ValueError(f"seed is {seed!r}, but must be a whole number from 0 to 2**32 - 1.")
        if decode and self.bundle.autoencoder is None:
            raise ValueError(
                "These networks have no autoencoder (no folder vae/), so there are no images; ask for "
                "decode=False, or add one."
            )


class _Compiled:
    """A sampler whose batch is shared by the devices of a mesh; compiled once for each shape."""

    def __init__(self, sampler: Sampler, mesh: Mesh):
        self.times = sampler.times
        all_same, shared = PartitionSpec(), PartitionSpec("data")
        inputs = (all_same, shared, shared, all_same)

        def over_devices(function, in_specs, out_specs=shared):
            mapped = jax.shard_map(
                function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False
            )
            return jax.jit(mapped)

        step_inputs = (*inputs, all_same, all_same, shared, shared)
        self._start = over_devices(sampler.start, inputs)
        self._step = over_devices(sampler.step, step_inputs, (all_same, shared, shared))
        self._sample = over_devices(sampler.sample, (*inputs, all_same))
        self.images = over_devices(sampler.images, (all_same, shared))

    def latents(self, inputs: tuple, times: jax.Array, bar) -> jax.Array:
        """Latents of a batch; `inputs` are those of `Sampler.start`. With a bar a step is compiled.

        Nothing is sent to the devices on the way if all that is given lies there.
        """
        if bar.disable:
            return self._sample(*inputs, times)
        index = jax.device_put(jnp.int32(0), times.sharding)
        x, state = self._start(*inputs)
        for _ in range(times.size - 1):
            index, x, state = self._step(*inputs, times, index, x, state)
            jax.block_until_ready(x)  # so that the bar tells of steps that are done
            bar.update()
        return x


def load(folder: str | os.PathLike[str], dtype: Any = None, **options: Any) -> Pipeline:
    """Loads a diffusers folder, such as the authors' published one, as a pipeline.

    Args:
      folder, dtype: See `load_bundle`.
      **options: See `Pipeline`.

    Raises:
      ValueError: If the folder cannot be loaded.
    """
    return Pipeline(load_bundle(folder, dtype), **options)


def load_bundle(folder: str | os.PathLike[str], dtype: Any = None, platform: str | None = None) -> Bundle:
    """The networks of a diffusers folder, set for sampling.

    The transformer's blocks compute in the type of its parameters, but in float32 on a CPU; the
    autoencoder, the embeddings and all mixture arithmetic are float32 always.

    Args:
      folder: See `interop.load_diffusers`.
      dtype: Type of the parameters. None keeps the type that is stored; on a CPU it is float32, since
        sampling casts them otherwise, which takes more time and memory.
      platform: Where they will compute, such as 'cpu' or 'cuda'; the default backend if None.

    Raises:
      ValueError: If the folder cannot be loaded.
    """
    on_cpu = (platform or jax.default_backend()) == "cpu"
    bundle = load_diffusers(folder, "float32" if dtype is None and on_cpu else dtype)
    if bundle.model is None:
        return bundle
    # Unrolled, sampling on a CPU is no faster, compiles for 14 s instead of 4 and takes 3 GB more.
    config = dataclasses.replace(
        bundle.config, scan_layers=True, dtype="float32" if on_cpu else bundle.config.param_dtype,
        attention="xla" if on_cpu else "auto",
    )  # fmt: skip
    return dataclasses.replace(bundle, model=from_params(GMDiT, config, bundle.params))


def _bar(total: int, shown: bool):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="sampling", unit="step", disable=not shown)
