"""Measurement of images: Inception, a reference, and the metrics."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from experiments.common import files
from gmflow_jax import evaluation, interop
from gmflow_jax._files import to_path

# Metrics of a sweep by default; the other `evaluation.IMAGE_METRICS` take minutes for 50,000 images.
SWEPT_METRICS = ("fid", "sfid", "inception_score", "precision_recall", "colours")


@dataclasses.dataclass(frozen=True)
class Measurement:
    """Scores images by Inception features against a reference.

    Attributes:
      extractor: Inception.
      reference: features or statistics of the real images.
      metrics: some of `evaluation.IMAGE_METRICS`.
      neighbours: rounding of distances, see `evaluation.image_scores`.
    """

    extractor: evaluation.FeatureExtractor
    reference: evaluation.Reference
    metrics: tuple[str, ...]
    neighbours: str

    def features(self, batches: Iterable[np.ndarray]) -> evaluation.ImageFeatures:
        """Compute features of uint8 images; those of single images are kept only if a metric needs them."""
        keep_rows = not set(self.metrics) <= set(evaluation.available_metrics(self.reference, False))
        return evaluation.image_features(self.extractor, batches, keep_rows)

    def scores(self, features: evaluation.ImageFeatures) -> dict[str, float]:
        """Compute the scores from features."""
        return evaluation.image_scores(
            features, self.reference, self.metrics, self.neighbours, _progress_bar
        )

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that determines the scores of given images; paths of files are left out."""
        source = {name: value for name, value in self.reference.source.items() if name != "path"}
        metrics = {name: _METRIC_SETTINGS[name].format(neighbours=self.neighbours) for name in self.metrics}
        return {
            "reference": source,
            "inception": {
                "sha256": self.extractor.fingerprint,
                "input": "uint8, resized to 299 x 299 as by TensorFlow 1 (bilinear, no half pixels, no "
                "antialiasing), (x - 128) / 128",
                "dtype": "float32, matrix products of the highest precision",
            },
            "metrics": metrics,
        }

    @property
    def unavailable_note(self) -> str:
        """A sentence that names the metrics which the reference does not allow, or an empty string."""
        allowed = evaluation.available_metrics(self.reference)
        lacking = [name for name in evaluation.IMAGE_METRICS if name not in allowed]
        if not lacking:
            return ""
        return f"Not measured, because the reference lacks the data that they need: {', '.join(lacking)}."


# These texts stand in reports and in settings of sweeps, which must not change while a sweep goes on.
_METRIC_SETTINGS = {
    "fid": "Frechet distance of pool3 in float64, covariances with divisor N - 1",
    "sfid": "the same of the spatial features",
    "inception_score": "mean of 10 parts, logits without the bias",
    "precision_recall": "k = 3, distances in {neighbours}",
    "density_coverage": "k = 5, distances in {neighbours}",
    "kid": "unbiased, cubic kernel, all pictures",
    "colours": "means over pictures",
}


def check_files(inception: str | None, reference: str | None, reference_out: str | None) -> None:
    """Check that the files for scores of images are given.

    Args:
      inception: path of Inception's weights.
      reference: path of the reference.
      reference_out: path to which the features of the reference are to be written, or None.

    Raises:
      ValueError: if one of the first two is missing, the last cannot be written, or packages for an address
        are not installed.
      OSError: if a bucket cannot be used.
    """
    if not inception or not reference:
        raise ValueError(
            "Scores of images need --inception (the weights of FID's Inception network) and --reference (an "
            ".npz of ADM or of the authors, or a folder of images); see experiments/scoring/README.md."
        )
    for path in (inception, *reference.split(",")):  # before the networks load, which takes minutes
        if not path.startswith("tfds:") and not to_path(path).exists():
            raise ValueError(f"There is no file or folder {path}; check --inception and --reference.")
    if reference_out and not reference_out.endswith(".npz"):
        raise ValueError(f"--reference_out must end in .npz, but {reference_out!r} was given.")
    if reference_out:
        files.check_parent(reference_out)


def load(
    inception: str,
    reference: str,
    image_size: int,
    num_samples: int,
    metrics: Sequence[str] | None = None,
    defaults: Sequence[str] = evaluation.IMAGE_METRICS,
    neighbours: str = "float32",
    reference_out: str | None = None,
    exif_orientation: bool = False,
) -> Measurement:
    """Load Inception on all local devices, and the features of the reference.

    Args:
      inception: path of Inception's weights, .safetensors or .npz.
      reference: path of an .npz (ADM's, the authors' statistics, or images) or of a folder of images.
      image_size: size to which the images of a folder are cropped.
      num_samples: number of images that will be scored.
      metrics: the metrics; None selects those of `defaults` that the reference allows.
      defaults: see `metrics`.
      neighbours: rounding of distances, see `evaluation.image_scores`.
      reference_out: .npz to which the first process writes the features of the reference.
      exif_orientation: whether the images of a folder are turned upright, see `data.center_crop`.

    Returns:
      The measurement.

    Raises:
      ValueError: if a file cannot be used, or a metric cannot be measured.
    """
    extractor = evaluation.FeatureExtractor(interop.load_inception(inception))
    bar = functools.partial(tqdm, desc="reference", unit="batch", disable=jax.process_index() > 0)
    loaded = evaluation.load_reference(reference, extractor, image_size, bar, exif_orientation)
    if reference_out and jax.process_index() == 0:
        evaluation.save_reference(reference_out, loaded, extractor)
    allowed = evaluation.available_metrics(loaded)
    if metrics is None:
        metrics = [name for name in defaults if name in allowed]
    evaluation.check_metrics(metrics, num_samples, loaded)
    return Measurement(extractor, loaded, tuple(metrics), neighbours)


def _progress_bar(blocks: Iterable) -> Iterable:
    """Show a progress bar if the blocks take more than two seconds."""
    return tqdm(blocks, desc="neighbours", unit="block", leave=False, delay=2)
