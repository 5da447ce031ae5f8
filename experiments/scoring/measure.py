"""How pictures are measured: Inception, a reference, and the metrics that are asked for."""

import dataclasses
import functools
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from gmflow_jax import evaluation, interop

# What a sweep's tables show; the others of `evaluation.IMAGE_METRICS` take minutes for 50,000 pictures.
SWEPT_METRICS = ("fid", "sfid", "inception_score", "precision_recall", "colours")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Scores pictures.

    Attributes:
      metrics: Of `evaluation.IMAGE_METRICS`.
      neighbours: See `evaluation.image_scores`.
    """

    extractor: evaluation.FeatureExtractor
    reference: evaluation.Reference
    metrics: tuple[str, ...]
    neighbours: str

    def features(self, batches: Iterable[np.ndarray]) -> evaluation.ImageFeatures:
        """Features of uint8 pictures; those of each picture are kept where a metric needs them."""
        keep_rows = not set(self.metrics) <= set(evaluation.available_metrics(self.reference, False))
        return evaluation.image_features(self.extractor, batches, keep_rows)

    def scores(self, features: evaluation.ImageFeatures) -> dict[str, float]:
        return evaluation.image_scores(
            features, self.reference, self.metrics, self.neighbours, _bar_of_blocks
        )

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the scores of given pictures; where files lie does not."""
        source = {name: value for name, value in self.reference.source.items() if name != "path"}
        return {
            "reference": source,
            "inception": {
                "sha256": self.extractor.fingerprint,
                "input": "uint8, resized to 299 x 299 as by TensorFlow 1 (bilinear, no half pixels, no "
                "antialiasing), (x - 128) / 128",
                "dtype": "float32, matrix products of the highest precision",
            },
            "metrics": {name: _HOW[name].format(neighbours=self.neighbours) for name in self.metrics},
        }

    @property
    def left_out(self) -> str:
        """A sentence on what the reference does not allow; empty if there is nothing of the kind."""
        allowed = evaluation.available_metrics(self.reference)
        lacking = [name for name in evaluation.IMAGE_METRICS if name not in allowed]
        if not lacking:
            return ""
        return f"Not measured, for the reference lacks what they need: {', '.join(lacking)}."


_HOW = {
    "fid": "Frechet distance of pool3 in float64, covariances with divisor N - 1",
    "sfid": "the same of the spatial features",
    "inception_score": "mean of 10 parts, logits without the bias",
    "precision_recall": "k = 3, distances in {neighbours}",
    "density_coverage": "k = 5, distances in {neighbours}",
    "kid": "unbiased, cubic kernel, all pictures",
    "colours": "means over pictures",
}


def check_files(inception: str | None, reference: str | None, reference_out: str | None) -> None:
    """ValueError if a file that scores of pictures need is not named, or features cannot be kept there."""
    if not inception or not reference:
        raise ValueError(
            "Scores of pictures need --inception, the weights of FID's network, and --reference, an .npz of "
            "ADM or of the authors, or a folder of images; see experiments/scoring/README.md for both."
        )
    if reference_out and not reference_out.endswith(".npz"):
        raise ValueError(f"--reference_out must end in .npz, but {reference_out!r} was given.")
    if reference_out and not pathlib.Path(reference_out).absolute().parent.is_dir():
        raise ValueError(f"The folder of {reference_out} does not exist. Make it, or write elsewhere.")


def load(
    inception: str,
    reference: str,
    image_size: int,
    num_samples: int,
    metrics: Sequence[str] | None = None,
    defaults: Sequence[str] = evaluation.IMAGE_METRICS,
    neighbours: str = "float32",
    reference_out: str | None = None,
) -> Measurement:
    """Inception on all local devices, and the reference as it sees it.

    Args:
      image_size: What pictures of a folder are cropped to.
      num_samples: How many pictures are to be scored.
      metrics: What is measured; where None, what the reference allows of `defaults`.
      reference_out: Where the first process keeps the reference's features.

    Raises:
      ValueError: If a file does not fit, or a metric cannot be measured.
    """
    extractor = evaluation.FeatureExtractor(interop.load_inception(inception))
    bar = functools.partial(tqdm, desc="reference", unit="batch", disable=jax.process_index() > 0)
    found = evaluation.load_reference(reference, extractor, image_size, progress=bar)
    if reference_out and jax.process_index() == 0:
        evaluation.save_reference(reference_out, found, extractor)
    allowed = evaluation.available_metrics(found)
    if metrics is None:
        metrics = [name for name in defaults if name in allowed]
    evaluation.check_metrics(metrics, num_samples, found)
    return Measurement(extractor, found, tuple(metrics), neighbours)


def _bar_of_blocks(blocks: Iterable) -> Iterable:
    """A bar for what takes more than a moment."""
    return tqdm(blocks, desc="neighbours", unit="block", leave=False, delay=2)
