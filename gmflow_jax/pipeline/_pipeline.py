"""The pipeline: draws images of classes on all local devices."""

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.typing import ArrayLike

from gmflow_jax._arguments import check_number, finite_number, whole_number
from gmflow_jax.guidance import METHODS, check_guidance_scale
from gmflow_jax.interop import Bundle
from gmflow_jax.models import functional
from gmflow_jax.pipeline._compiled import CompiledSampler
from gmflow_jax.pipeline._labels import label_ids
from gmflow_jax.pipeline._observed import (
    Shapes,
    as_mask,
    as_observed,
    check_observation,
    in_latent_pixels,
    paste,
)
from gmflow_jax.pipeline._sampler import Recipe, Sampler, transformer_of
from gmflow_jax.pipeline._usual import usual_options, warn_of_steps
from gmflow_jax.solvers import Solver

_BATCH_PER_DEVICE = 16


class Pipeline:
    """Draws images of classes with the networks of a bundle. Batches are split over the devices.

    Attributes:
      bundle: the networks.
      id2label: names of each class by class id.
    """

    def __init__(
        self,
        bundle: Bundle,
        *,
        decode_batch_size: int = 4,
        devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]  # no stubs
    ):
        """Copy the networks to the devices.

        Args:
          bundle: the networks, such as `load_bundle` returns.
          decode_batch_size: number of latents that a device decodes, or images that it encodes, at a time,
            to bound memory.
          devices: the devices to use; all local devices by default.

        Raises:
          ValueError: if the bundle has no transformer, or the transformer and the autoencoder do not fit.
        """
        self._config = transformer_of(bundle).config
        decode_batch_size = whole_number("decode_batch_size", decode_batch_size, 1)
        channels = bundle.autoencoder and bundle.autoencoder.config.latent_channels
        if channels not in (None, self._config.in_channels):
            raise ValueError(
                f"The autoencoder's latents have {channels} channels, but the transformer draws "
                f"{self._config.in_channels}; load networks that belong together."
            )
        self.bundle, self.id2label, self._shapes = bundle, bundle.id2label, Shapes.of(bundle)
        self._decode_batch_size = decode_batch_size
        self._mesh = Mesh(np.asarray(devices or jax.local_devices()), ("data",))
        params = {name: functional(network)[1] for name, network in bundle.networks.items()}
        self._params = jax.device_put(params, NamedSharding(self._mesh, PartitionSpec()))
        self._compiled: dict[Recipe, CompiledSampler] = {}

    def __call__(self, labels: Sequence[int | str], **options: Any) -> np.ndarray:
        """Draw one image for each label.

        Args:
          labels: class ids or names, see `label_ids`.
          **options: further arguments of `batches`.

        Returns:
          The batches that `batches` yields, concatenated: uint8 images [n, H, W, 3], or float32 latents
          [n, h, w, C] with decode=False.

        Raises:
          ValueError: if a label is unknown, or an option cannot work.
        """
        return np.concatenate(list(self.batches(labels, **options)))

    def edit(
        self,
        images: np.ndarray,
        mask: np.ndarray,
        labels: Sequence[int | str],
        *,
        var: float = 0.0,
        keep: bool = False,
        **options: Any,
    ) -> np.ndarray:
        """Draw the masked part of each image anew.

        The autoencoder encodes the images, and the masked latent pixels are drawn given the others by
        `guidance.observe`. The others come out as they were given. The new latents
        are decoded as a whole: the image outside the mask is the autoencoder's reconstruction, which differs
        from the original, and a few pixels along the border of the mask depend on both sides.

        Args:
          images: uint8 [n, H, W, 3], of the size that the pipeline draws; or latents [n, h, w, C], such as
            decode=False returns.
          mask: True or > 0 where pixels are drawn anew, of the size of the latents, [h, w] or [n, h, w], or
            of the images, [H, W] or [n, H, W]. A latent pixel is drawn anew if any of its image pixels is.
            True everywhere draws as `__call__` does, False everywhere returns the reconstructions.
          labels: class ids or names, one for each image, see `label_ids`.
          var: variance of the noise in the known latents; more than 0 lets them deviate from the images.
          keep: True copies the pixels of the images to the result wherever the mask is False.
          **options: further arguments of `batches`.

        Returns:
          uint8 images [n, H, W, 3], or float32 latents [n, h, w, C] with decode=False.

        Raises:
          ValueError: if images, mask and labels do not fit each other, or an option cannot work.
        """
        if options.get("observation") is not None:
            raise ValueError("edit makes the observation from images and mask; give your own to batches.")
        if options.get("solver") == "ddpm_large":
            raise ValueError("ddpm_large adds noise in its last step, also to known pixels: use ddpm.")
        images = as_observed(images, self._shapes)
        if keep and not (images.dtype == np.uint8 and options.get("decode", True)):
            raise ValueError("keep copies pixels of images, so it needs uint8 images and decode=True.")
        mask = as_mask(mask, len(images), self._shapes)
        with np.errstate(over="ignore"):
            check_number("var", np.float32(finite_number("var", var)), "[0, inf)")
        variance = np.where(in_latent_pixels(mask, self._shapes), np.inf, var)
        drawn = self(labels, observation=(images, variance), **options)
        return paste(mask, drawn, images) if keep else drawn

    def batches(
        self,
        labels: Sequence[int | str],
        *,
        num_steps: int | None = None,
        solver: str | Solver = "gm_ode",
        order: int | None = None,
        num_substeps: int | None = None,
        guidance_scale: float | None = None,
        guidance: str = "probabilistic",
        orthogonal: float | None = None,
        seed: int = 0,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        spectrum: bool | None = None,
        one_batch: bool = True,
        observation: tuple[ArrayLike, ArrayLike] | None = None,
        decode: bool = True,
        progress: bool = True,
    ) -> Iterator[np.ndarray]:
        """Draw one image for each label, and yield each batch when it is done.

        Each image depends on the seed, its index and its label, but not on the batch size or the number
        of devices. All batches have one size, so that the sampler is compiled once: the last batch is
        filled with repeated images, which are not returned. The defaults are the authors' for 32 steps, or
        those of a network that was distilled for few calls.

        Args:
          labels: class ids or names, see `label_ids`.
          num_steps: number of steps of the solver; by default 32, or the number that it was distilled for.
          solver: a name in `solvers.NAMES`, or a `Solver`.
          order: order of the solver, see `Recipe`; by default 2, or 1 for a distilled network.
          num_substeps: number of sub-steps in each step; by default 4, or 128 in all for a distilled network.
            The paper takes more for fewer steps, see `Recipe`.
          guidance_scale: one number. Probabilistic guidance takes [0, 1), where 0 is off; 'cfg' takes at
            least 1, where 1 is off. By default 0.45, or off for a distilled network. Sampling without
            guidance takes half the time.
          guidance: `method` of `guidance.guided_denoiser`.
          orthogonal: `orthogonal` of `guidance.guided_denoiser`.
          seed: seed of all images, from 0 to 2**32 - 1.
          indices: index of each image among the images of the seed, from 0 to 2**32 - 1; by default 0,
            1, 2, ...
          batch_size: number of images to draw at a time on all devices together, at least one per
            device; by default up to 16 per device.
          spectrum: whether gm_sde uses the spectrum network, see `Recipe`.
          one_batch: how guidance calls the network, see `Recipe`.
          observation: (y, var), on which images are conditioned, see `guidance.observe`: latents
            [n, h, w, C], or uint8 images [n, H, W, 3], which are encoded; and the variance of each latent
            pixel, [n, h, w]: 0 where it is known, inf where it is drawn. `edit` makes it from a mask.
          decode: True yields images, False the latents that the transformer models.
          progress: True shows a progress bar and runs each step as a separate call. False runs all steps
            of a batch as one call, which is compiled for each number of steps.

        Yields:
          uint8 images [n, H, W, 3], or float32 latents [n, h, w, C].

        Raises:
          ValueError: if a label is unknown, or an option cannot work.
        """
        ids = label_ids(labels, self.id2label, self._config.num_classes)
        if decode and self.bundle.autoencoder is None:
            raise ValueError(
                "These networks have no autoencoder (no folder vae/), so they draw latents only; pass "
                "decode=False, or add an autoencoder."
            )
        whole_number("the number of labels", len(ids), 1)
        observation = check_observation(observation, len(ids), self._shapes)
        num_steps = None if num_steps is None else whole_number("num_steps", num_steps, 1)
        seed = whole_number("seed", seed, 0, 2**32 - 1)
        batch_size = None if batch_size is None else whole_number("batch_size", batch_size, 1)
        usual = usual_options(self.bundle.num_calls, num_steps, guidance)
        num_steps, order = usual.num_steps, usual.order if order is None else order
        num_substeps = usual.num_substeps if num_substeps is None else num_substeps
        guidance_scale = usual.guidance_scale if guidance_scale is None else guidance_scale
        guidance_scale = finite_number("guidance_scale", guidance_scale)
        check_guidance_scale(guidance_scale, guidance)
        which = _indices(indices, len(ids))
        guided = guidance_scale != METHODS[guidance]
        recipe = Recipe(solver, order, num_substeps, guided, guidance, orthogonal, spectrum, one_batch)
        run = self._compile(recipe)
        warn_of_steps(self.bundle.num_calls, num_steps)
        given = np.asarray(ids, np.int32), which.astype(np.uint32), observation
        return self._draw(run, given, num_steps, guidance_scale, seed, batch_size, decode, progress)

    def _draw(
        self,
        run: CompiledSampler,
        given: tuple[np.ndarray, np.ndarray, tuple[np.ndarray, np.ndarray] | None],
        num_steps: int,
        guidance_scale: float,
        seed: int,
        batch_size: int | None,
        decode: bool,
        progress: bool,
    ) -> Iterator[np.ndarray]:
        """Draw images of `given`: the class, the index and the observation of each image."""
        num_images = len(given[0])
        size, num_batches = self._batches(num_images, batch_size)
        # np.resize repeats images to fill the last batch, so that all batches have one compiled shape. The
        # repeated images are dropped below.
        rows = np.resize(np.arange(num_images), size * num_batches)
        labels, which, observation = jax.tree.map(operator.itemgetter(rows), given)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(jax.random.key(seed), jnp.asarray(which))
        replicated = NamedSharding(self._mesh, PartitionSpec())
        split = NamedSharding(self._mesh, PartitionSpec("data"))
        times, scale = jax.device_put((run.times(num_steps), jnp.float32(guidance_scale)), replicated)
        with _bar(num_batches * num_steps, progress) as bar:
            for start in range(0, num_images, size):
                rows_of_batch = operator.itemgetter(slice(start, start + size))
                batch = jax.tree.map(rows_of_batch, (keys, labels, observation))
                batch_keys, batch_labels, observed = jax.device_put(batch, split)
                if observed is not None and observed[0].dtype == jnp.uint8:
                    observed = run.encode(self._params, observed[0]), observed[1]
                x = run.latents((self._params, batch_keys, batch_labels, scale), times, bar, observed)
                if not np.isfinite(x).all():
                    raise ValueError(
                        f"Latents of the images from {start} on are NaN or infinite after {num_steps} steps: "
                        "the network diverges, or its weights are not finite; check the weights, or give "
                        "more steps or less guidance."
                    )
                drawn = np.asarray(run.images(self._params, x) if decode else x)
                yield drawn[: num_images - start]

    def _compile(self, recipe: Recipe) -> CompiledSampler:
        if recipe not in self._compiled:
            sampler = Sampler(self.bundle, recipe, self._decode_batch_size)
            self._compiled[recipe] = CompiledSampler(sampler, self._mesh)
        return self._compiled[recipe]

    def _batches(self, num_images: int, batch_size: int | None) -> tuple[int, int]:
        """Return the size of a batch, a multiple of the devices, and the number of equal batches."""
        devices = self._mesh.size
        limit = max(batch_size // devices, 1) if batch_size else _BATCH_PER_DEVICE
        num_batches = -(-num_images // (limit * devices))
        per_device = -(-num_images // (num_batches * devices))
        return per_device * devices, num_batches


def _indices(indices: Sequence[int] | None, num_images: int) -> np.ndarray:
    """Return the index of each image among the images of the seed."""
    which = np.arange(num_images) if indices is None else np.asarray(indices)
    if which.shape != (num_images,):
        raise ValueError(
            f"There are {num_images} labels and {which.size} indices; give one index for each label."
        )
    if which.dtype.kind not in "iu" or which.min() < 0 or which.max() >= 2**32:
        raise ValueError("An index is no whole number from 0 to 2**32 - 1; give the numbers of the images.")
    return which


def _bar(total: int, shown: bool):
    from tqdm.auto import tqdm

    return tqdm(total=total, desc="sampling", unit="step", disable=not shown)
