"""Latents of images, written by experiments.prepare_latents."""

import functools
import json
from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from experiments.common import figures
from experiments.tasks.fake import FakeTask
from gmflow_jax import data, evaluation, interop, models, pipeline
from gmflow_jax._files import to_path

_NUM_FOR_LIKELIHOOD = 1024
_CHUNK = 32  # images in one call of the decoder, which decodes them one after the other


class LatentTask(FakeTask):
    """Latents of images with labels; `config.autoencoder`, if given, decodes samples to images.

    `config` is a run's configuration, and `network` that of its network.
    """

    def __init__(self, config: ml_collections.ConfigDict, network: models.GMDiTConfig):
        super().__init__(config, network)
        if not config.data.folder:
            raise ValueError(
                "This configuration trains on latents, but data.folder is empty: prepare latents with "
                "python -m experiments.prepare_latents, and give --config.data.folder=DIR."
            )
        self._latents = _open(config.data, config.data.folder)
        self._held_out = _open(config.data, config.data.eval_folder) if config.data.eval_folder else None
        self.metadata = json.loads(json.dumps(self._latents.metadata.to_json()))
        self.class_names = tuple(self._latents.metadata.class_folders)
        self._check_network()
        self._autoencoder = None
        if config.autoencoder:
            self._autoencoder = load_autoencoder(config.autoencoder, self._latents.metadata)

    @property
    def image_size(self) -> int:
        """Height and width of the images that were encoded."""
        return self._latents.metadata.image_size

    @property
    def exif_orientation(self) -> bool:
        """Whether the images were turned upright before they were encoded."""
        return self._latents.metadata.exif_orientation

    def batches(self, batch_size: int, seed: int) -> Callable:
        """Return batch_fn(step, rows=None), which gives the training batch of a step."""
        return data.LatentBatches(self._latents, batch_size, seed)

    def evaluation_batches(self, batch_size: int, seed: int) -> Callable:
        """Return a batch_fn of `data.eval_folder`, or without it of the training data in another order."""
        return data.LatentBatches(self._held_out or self._latents, batch_size, seed + 1)

    def picture(self, path, x) -> None:
        """Draw a grid of latents x [N, h, w, C]: decoded if there is an autoencoder, else as colours."""
        if self._autoencoder is None:
            super().picture(path, x)
        else:
            figures.image_grid(path, self.decode(x))

    def decode(self, x) -> np.ndarray:
        """Decode latents [N, h, w, C], which must be finite, to uint8 images [N, H, W, 3]."""
        if not np.isfinite(x).all():
            raise ValueError("Latents are NaN or infinite and cannot be decoded; the network diverges.")
        return np.concatenate([self._decode(x[i : i + _CHUNK]) for i in range(0, len(x), _CHUNK)])

    @functools.cached_property
    def _decode(self) -> Callable:
        decode, params = models.functional(self._autoencoder, "decode")
        scale = self._latents.metadata.scaling_factor

        @jax.jit
        def images(params, x):
            return pipeline.to_uint8(decode(params, x / scale, batch_size=1))

        return lambda x: np.asarray(images(params, x))

    @property
    def training_data(self) -> tuple[np.ndarray, np.ndarray]:
        """The first scaled latents [N, h, w, C] of the training data, and labels [N]."""
        batch = self.batches(min(_NUM_FOR_LIKELIHOOD, len(self._latents)), seed=0)(0)
        return batch["x_0"], batch["labels"]

    def labels_of_samples(self, num_samples: int) -> np.ndarray:
        """Return labels by the authors' rule, see `evaluation.evaluation_labels`."""
        return evaluation.evaluation_labels(num_samples, self.num_classes)

    def _check_network(self) -> None:
        metadata = self._latents.metadata
        if tuple(metadata.latent_shape) != self.sample_shape:
            raise ValueError(
                f"The latents are {'x'.join(map(str, metadata.latent_shape))}, but the network is made for "
                f"{'x'.join(map(str, self.sample_shape))}: set network.input_size and network.in_channels, "
                "or prepare latents of another image_size."
            )
        if metadata.num_classes != self.num_classes:
            raise ValueError(
                f"The latents are of {metadata.num_classes} classes, but network.num_classes is "
                f"{self.num_classes}; give --config.network.num_classes={metadata.num_classes}."
            )
        held_out = self._held_out and self._held_out.metadata
        if held_out and (held_out.autoencoder, held_out.class_folders) != (
            metadata.autoencoder, metadata.class_folders,
        ):  # fmt: skip
            raise ValueError(
                "data.eval_folder holds latents of another autoencoder or of other classes than data.folder; "
                "prepare both with the same autoencoder and classes."
            )


def _open(config: ml_collections.ConfigDict, folder: str) -> data.Latents:
    """Open latents by the fields `data` of a configuration; those of older runs have no cache."""
    return data.Latents(folder, config.get("cache", ""), config.get("cache_gib", 200.0))


def load_autoencoder(folder: str, metadata: data.LatentMetadata | None = None) -> models.AutoencoderKL:
    """Load the autoencoder of a diffusers folder, which may be in a bucket.

    Raises ValueError if there is none, or if it did not encode the latents that `metadata` describes.
    """
    root = to_path(folder)
    if not root.is_dir():
        raise ValueError(
            f"There is no folder {folder} for the autoencoder. Download one (python -m experiments.download "
            "--help) and give its path."
        )
    vae = root / "vae"  # loaded alone, to skip a transformer beside it
    autoencoder = interop.load_diffusers(vae if vae.is_dir() else root).autoencoder
    if autoencoder is None:
        raise ValueError(f"{folder} holds no autoencoder; give a folder with the subfolder vae/.")
    if metadata is not None:
        data.check_autoencoder(metadata, autoencoder)
    return autoencoder
