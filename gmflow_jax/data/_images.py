"""Images as pixels: batches for networks that are trained without an autoencoder, and plain reading."""

import dataclasses
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from gmflow_jax.data._batches import Rows, stream_indices, stream_positions
from gmflow_jax.data._encode import read_pixels, submit_ahead
from gmflow_jax.data._random import flip, row_generators
from gmflow_jax.data._sources import ImageSource


@dataclasses.dataclass(frozen=True)
class ImageBatches:
    """A `batch_fn(step, rows=None)` of centre crops, half of them mirrored.

    A call returns `x_0`, float32 [batch_size, image_size, image_size, 3] in [-1, 1], and `labels`, int32
    [batch_size]. Images come in the order of `epoch_indices`; whether one is mirrored depends on the seed
    and the position in the stream. `rows` selects rows of the global batch; only these are read. A call
    raises ValueError for an image that cannot be read.

    Attributes:
      source: the images.
      image_size: pixels along a side of the crop.
      batch_size: images in the global batch.
      seed: seed of the order and of the mirroring.
      exif_orientation: see `center_crop`.
    """

    source: ImageSource
    image_size: int
    batch_size: int
    seed: int = 0
    exif_orientation: bool = False

    def __call__(self, step: int, rows: Rows = None) -> dict[str, np.ndarray]:
        positions = stream_positions(step, self.batch_size, rows)
        indices = stream_indices(self.seed, positions, len(self.source))
        x_0 = np.empty((len(indices), self.image_size, self.image_size, 3), np.float32)
        for row, index, generator in zip(x_0, indices, row_generators(self.seed, positions), strict=True):
            pixels = read_pixels(self.source, index, self.image_size, self.exif_orientation)
            row[...] = pixels[:, ::-1] if flip(generator) else pixels
        return {"x_0": x_0 / np.float32(127.5) - 1, "labels": self.source.labels[indices]}


def read_images(
    source: ImageSource,
    image_size: int,
    batch_size: int = 64,
    num_threads: int = 4,
    digest: Any = None,
    exif_orientation: bool = False,
) -> Iterator[np.ndarray]:
    """Read the centre crops of all images, in order.

    Args:
      source: the images.
      image_size: pixels along a side of the crop.
      batch_size: images in a batch.
      num_threads: threads that read and crop ahead.
      digest: an object of hashlib that is updated with the pixels, or None.
      exif_orientation: see `center_crop`.

    Yields:
      uint8 [batch_size, image_size, image_size, 3]; the last batch may be smaller.

    Raises:
      ValueError: if an image cannot be read; the message has its name.
    """
    def crop_of(index: int) -> np.ndarray:
        return read_pixels(source, index, image_size, exif_orientation)

    with ThreadPoolExecutor(num_threads) as pool:
        crops = submit_ahead(pool, crop_of, range(len(source)), 2 * batch_size)
        rows = []
        for crop in crops:
            rows.append(crop.result())
            if digest is not None:
                digest.update(rows[-1].tobytes())
            if len(rows) == batch_size:
                yield np.stack(rows)
                rows = []
        if rows:
            yield np.stack(rows)
