"""What is measured of a set of images, batch by batch."""

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
    """What metrics need to know of N images; a pytree of numpy arrays.

    Attributes:
      pool3, spatial: Statistics of Inception's features, for FID and sFID.
      rows: The pool3 features, float32 [N, 2048], for precision, recall and the kernel distance; None if
        they were not kept.
      logits: float32 [N, 1008], for the Inception Score; None likewise.
      colors: 'saturation', 'brightness' and 'contrast' of each image, float64 [N].
    """

    pool3: FeatureStatistics
    spatial: FeatureStatistics
    rows: np.ndarray | None
    logits: np.ndarray | None
    colors: dict[str, np.ndarray]

    def merge(self, other: "ImageFeatures") -> "ImageFeatures":
        """Features of both sets, those of `self` first. ValueError if only one of them has rows."""
        if (self.rows is None) != (other.rows is None):
            raise ValueError(
                "These cannot be merged, for one set has each image's features and the other has not; give "
                "both the same `keep_rows`."
            )
        small, other_small = ((f.rows, f.logits, f.colors) for f in (self, other))
        rows, logits, colors = jax.tree.map(lambda *parts: np.concatenate(parts), small, other_small)
        return ImageFeatures(
            self.pool3.merge(other.pool3), self.spatial.merge(other.spatial), rows, logits, colors
        )


def image_features(
    extractor: "FeatureExtractor", batches: Iterable[np.ndarray], keep_rows: bool = True
) -> ImageFeatures:
    """Features of uint8 images that come in batches [n, H, W, 3]; each image is looked at once.

    Hundreds of images are held at a time. Without `keep_rows` only three numbers an image are kept beside
    the statistics, and FID, sFID and colours are what can be measured. Raises ValueError for images that are
    no uint8 colours, or if there are none.
    """
    statistics, kept = None, []
    for part in _measured(extractor, _joined(map(check_images, batches)), keep_rows):
        new = (part.pool3, part.spatial)
        if statistics is not None:
            new = tuple(old.merge(more) for old, more in zip(statistics, new, strict=True))
        statistics = new
        kept.append((part.rows, part.logits, part.colors))
    if statistics is None:
        raise ValueError("There are no images to measure; give at least one batch of them.")
    return ImageFeatures(*statistics, *jax.tree.map(lambda *parts: np.concatenate(parts), *kept))


def _measured(
    extractor: "FeatureExtractor", batches: Iterable[np.ndarray], keep_rows: bool
) -> Iterator[ImageFeatures]:
    """Features of each batch, measured by a thread while the caller draws the next batch."""

    def measure(images: np.ndarray) -> ImageFeatures:
        features = extractor(images)
        statistics = (FeatureStatistics.of(part) for part in (features.pool3, features.spatial))
        rows = (features.pool3, features.logits) if keep_rows else (None, None)
        return ImageFeatures(*statistics, *rows, color_statistics(images))

    with ThreadPoolExecutor(1) as pool:
        pending = None
        for images in batches:
            if pending is not None:
                yield pending.result()
            pending = pool.submit(measure, images)
        if pending is not None:
            yield pending.result()


def _joined(batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same images in order, in batches of at least `_CHUNK` but for the last."""
    held: list[np.ndarray] = []
    for images in batches:
        held.append(images)
        if sum(map(len, held)) >= _CHUNK:
            yield np.concatenate(held)
            held = []
    if held:
        yield np.concatenate(held)
