"""Random latents, to measure speed without data."""

from collections.abc import Callable

import ml_collections
import numpy as np

from experiments.common import figures
from gmflow_jax import data, models


class FakeTask:
    """Random numbers in the shape of latents, and with random labels."""

    metadata = None
    class_names = ()
    sample_batch_size = 64

    def __init__(self, config: ml_collections.ConfigDict, network: models.GMDiTConfig):
        self.num_classes = network.num_classes
        self.sample_shape = (*network.input_height_width, network.in_channels)

    def batches(self, batch_size: int, seed: int) -> Callable:
        """Return batch_fn(step, rows=None), which gives the training batch of a step."""
        return data.FakeLatentBatches(self.sample_shape, self.num_classes, batch_size, seed)

    def evaluation_batches(self, batch_size: int, seed: int) -> Callable:
        """Return a batch_fn whose batches differ from the training batches of the same seed."""
        return self.batches(batch_size, seed + 1)

    @property
    def training_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Raise ValueError, because random latents are no data."""
        raise ValueError("The likelihood of random latents means nothing; give a run on latents of images.")

    def picture(self, path, x) -> None:
        """Draw a grid of latents x [N, h, w, C], with their first channels as colours."""
        colors = np.clip(np.asarray(x)[..., :3] / 6 + 0.5, 0, 1)
        figures.image_grid(path, colors if colors.shape[-1] == 3 else colors[..., :1])
