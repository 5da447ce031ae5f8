"""Training on latents of images: those of experiments.prepare_latents, or random ones."""

import functools
import json
import pathlib
from collections.abc import Callable

import jax
import ml_collections
import numpy as np

from experiments import figures, runs
from experiments.scoring import measure
from gmflow_jax import data, evaluation, interop, models, pipeline

_NUM_FOR_LIKELIHOOD = 1024
_CHUNK = 32  # images decoded by one call, one after the other


class FakeTask:
    """Random numbers in the shape of latents, to measure speed without data."""

    metadata = None
    class_names = ()
    sample_batch_size = 64

    def __init__(self, config: ml_collections.ConfigDict):
        network = runs.network_config(config)
        self.num_classes = network.num_classes
        self.sample_shape = (*network.input_height_width, network.in_channels)
        if config.score_every and config.task == "fake":
            raise ValueError("Random latents have no scores; set score_every to 0.")

    def batches(self, batch_size: int, seed: int) -> Callable:
        return data.FakeLatentBatches(self.sample_shape, self.num_classes, batch_size, seed)

    def evaluation_batches(self, batch_size: int, seed: int) -> Callable:
        return self.batches(batch_size, seed + 1)

    @property
    def training_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Nothing: ValueError."""
        raise ValueError("Random latents have no likelihood to speak of; give a run on latents of images.")

    def picture(self, path, x) -> None:
        """The first channels of latents x [N, h, w, C] as colours."""
        colours = np.clip(np.asarray(x)[..., :3] / 6 + 0.5, 0, 1)
        figures.image_grid(path, colours if colours.shape[-1] == 3 else colours[..., :1])


class LatentTask(FakeTask):
    """Latents of images by class, with the autoencoder that they are of where one is given."""

    def __init__(self, config: ml_collections.ConfigDict):
        super().__init__(config)
        if not config.data.folder:
            raise ValueError(
                "This configuration trains on latents, but data.folder is empty: make them with python -m "
                "experiments.prepare_latents, and give --config.data.folder=DIR."
            )
        self._latents = data.Latents(config.data.folder)
        self._held_out = data.Latents(config.data.eval_folder) if config.data.eval_folder else None
        self.metadata = json.loads(json.dumps(self._latents.metadata.to_json()))
        self.class_names = tuple(self._latents.metadata.class_folders)
        self._check_network()
        self._autoencoder = None
        if config.autoencoder:
            self._autoencoder = load_autoencoder(config.autoencoder, self._latents.metadata)
        if config.score_every:
            self._load_measurement(config)

    def batches(self, batch_size: int, seed: int) -> Callable:
        return data.LatentBatches(self._latents, batch_size, seed)

    def evaluation_batches(self, batch_size: int, seed: int) -> Callable:
        return data.LatentBatches(self._held_out or self._latents, batch_size, seed + 1)

    def picture(self, path, x) -> None:
        if self._autoencoder is None:
            super().picture(path, x)
        else:
            figures.image_grid(path, self.decode(x))

    def decode(self, x) -> np.ndarray:
        """uint8 images [N, H, W, 3] of latents [N, h, w, C]; ValueError if these are not finite."""
        if not np.isfinite(x).all():
            raise ValueError("Latents are NaN or infinite, so they show nothing; the network diverges.")
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
        """Latents [N, h, w, C] as the network knows them, in the order of a training, and labels [N]."""
        batch = self.batches(min(_NUM_FOR_LIKELIHOOD, len(self._latents)), seed=0)(0)
        return batch["x_0"], batch["labels"]

    def labels_of_samples(self, num_samples: int) -> np.ndarray:
        return evaluation.evaluation_labels(num_samples, self.num_classes)

    def score(self, images: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """Scores of pictures by FID's Inception, against `config.reference`."""
        del labels
        return self._measurement.scores(self._measurement.features([images]))

    def _load_measurement(self, config) -> None:
        if not (config.autoencoder and config.inception and config.reference):
            raise ValueError(
                "score_every asks for scores of pictures, which need autoencoder, inception and reference; "
                "give all three, or score_every = 0."
            )
        self._measurement = measure.load(
            config.inception,
            config.reference,
            self._latents.metadata.image_size,
            config.score_samples,
            defaults=measure.SWEPT_METRICS,
        )

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
                "prepare both alike."
            )


def load_autoencoder(folder: str, metadata: data.LatentMetadata | None = None) -> models.AutoencoderKL:
    """The autoencoder of a diffusers folder; ValueError if it is not the one that made the latents."""
    alone = pathlib.Path(folder) / "vae"  # so that a transformer beside it is not read
    autoencoder = interop.load_diffusers(alone if alone.is_dir() else folder).autoencoder
    if autoencoder is None:
        raise ValueError(f"{folder} holds no autoencoder; give a folder that has vae/.")
    if metadata is not None:
        data.check_autoencoder(metadata, autoencoder)
    return autoencoder
