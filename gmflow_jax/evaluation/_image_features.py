"""The features of a set of images that the metrics use, computed batch by batch."""

import dataclasses
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import jax
import numpy as np

from gmflow_jax.evaluation._checks import check_images
from gmflow_jax.evaluation._color import color_statistics
from gmflow_jax.evaluation._statistics import FeatureStatistics

if TYPE_CHECKING:
    from gmflow_jax.evaluation._extract import FeatureExtractor

COLORS = ("saturation", "brightness", "contrast")
_CHUNK = 512  # images


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class ImageFeatures:
    """Everything that the metrics use of N images; a pytree of numpy arrays.

    Attributes:
      pool3: statistics of Inception's pool3 features, for FID.
      spatial: statistics of its spatial features, for sFID.
      rows: the pool3 features, float32 [N, 2048], for precision, recall and the kernel distance; None if
        they were not kept.
      logits: float32 [N, 1008], for the Inception Score; None if they were not kept.
      colors: saturation, brightness and contrast of each image, float64 [N], by name.
    """

    pool3: FeatureStatistics
    spatial: FeatureStatistics
    rows: np.ndarray | None
    logits: np.ndarray | None
    colors: dict[str, np.ndarray]

    def merge(self, other: "ImageFeatures") -> "ImageFeatures":
        """Return the features of both sets, those of `self` first.

        Raises:
          ValueError: if only one of the sets has rows.
        """
        if (self.rows is None) != (other.rows is None):
            raise ValueError(
                "The features cannot be merged: one set has each image's features and the other has not; "
                "compute both with the same `keep_rows`."
            )
        small, other_small = ((f.rows, f.logits, f.colors) for f in (self, other))
        rows, logits, colors = jax.tree.map(lambda *parts: np.concatenate(parts), small, other_small)
        return ImageFeatures(
            self.pool3.merge(other.pool3), self.spatial.merge(other.spatial), rows, logits, colors
        )


def image_features(
    extractor: "FeatureExtractor", batches: Iterable[np.ndarray], keep_rows: bool = True
) -> ImageFeatures:
    """Compute the features of images that come in batches; each image is read once.

    Hundreds of images are held at a time.

    Args:
      extractor: the feature network.
      batches: uint8 images [n, H, W, 3].
      keep_rows: whether to keep the features of each image. If False, only the statistics and three
        numbers for each image are kept, which suffice for FID, sFID and the colour statistics.

    Returns:
      The features.

    Raises:
      ValueError: if images are of another dtype or shape, or there are none.
    """
    statistics: tuple[FeatureStatistics, FeatureStatistics] | None = None
    kept = []
    for part in _measured(extractor, _joined(map(check_images, batches)), keep_rows):
        if statistics is None:
            statistics = (part.pool3, part.spatial)
        else:
            statistics = (statistics[0].merge(part.pool3), statistics[1].merge(part.spatial))
        kept.append((part.rows, part.logits, part.colors))
    if statistics is None:
        raise ValueError("There are no images to measure; give at least one batch of them.")
    rows, logits, colors = jax.tree.map(lambda *parts: np.concatenate(parts), *kept)
    return ImageFeatures(*statistics, rows, logits, colors)


def _measured(
    extractor: "FeatureExtractor", batches: Iterable[np.ndarray], keep_rows: bool
) -> Iterator[ImageFeatures]:
    """Yield the features of each batch, computed by a thread while the caller makes the next batch."""

    def measure(images: np.ndarray) -> ImageFeatures:
        features = extractor(images)
        rows, logits = (features.pool3, features.logits) if keep_rows else (None, None)
        statistics = (FeatureStatistics.of(features.pool3), FeatureStatistics.of(features.spatial))
        return ImageFeatures(*statistics, rows, logits, color_statistics(images))

    with ThreadPoolExecutor(1) as pool:
        pending = None
        for images in batches:
            if pending is not None:
                yield pending.result()
            pending = pool.submit(measure, images)
        if pending is not None:
            yield pending.result()


def _joined(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield the same images in order, in batches of at least `_CHUNK`; the last may be smaller."""
    held: list[np.ndarray] = []
    for images in batches:
        held.append(images)
        if sum(map(len, held)) >= _CHUNK:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)
