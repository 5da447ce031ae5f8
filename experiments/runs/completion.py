"""Flags and files of completions: images with known pixels, and masks of the pixels to draw anew."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import numpy as np
from absl import flags

from experiments.common import cli, figures
from experiments.common.files import read_array
from experiments.common.masks import read_mask
from experiments.runs.known import METHODS, Known
from experiments.runs.trained import TrainedRun
from experiments.tasks.digits import DigitsTask
from gmflow_jax import evaluation, pipeline
from gmflow_jax.pipeline._observed import Shapes

# absl lists flags that are defined here in the --help of the program that calls `define_flags`.
flags.disclaim_key_flags()

_NAMES = ("images", "arr_0", "samples")


@dataclasses.dataclass(frozen=True)
class Given:
    """Images whose masked pixels are drawn anew.

    Attributes:
      images: [N, H, W] in [0, 1], or noisy around it; or uint8 [N, H, W, 3].
      labels: the class of each image, int32 [N]; None if they are not known.
      mask: True where pixels are drawn anew, bool [N, H, W].
      method: one of `METHODS`.
      std: standard deviation of the noise of the images, in the unit of pixels in [0, 1].
    """

    images: np.ndarray
    labels: np.ndarray | None
    mask: np.ndarray
    method: str
    std: float

    def known(self, task: DigitsTask, num_samples: int) -> Known:
        """Return the known pixels of samples of a task; sample i completes image i modulo N."""
        which = np.arange(num_samples) % len(self.images)
        var = np.where(task.encode_mask(self.mask), np.inf, (2 * self.std) ** 2)  # x_0 is in [-1, 1]
        return Known(task.encode(self.images)[which], var[which], self.method)

    def editor(self, pipe: pipeline.Pipeline, num_samples: int) -> Callable:
        """Return `pipe.edit` for samples, of which sample i completes image i modulo N."""
        which = np.arange(num_samples) % len(self.images)
        return functools.partial(pipe.edit, self.images[which], self.mask[which])

    def classes_of(self, num_samples: int, classes: Sequence[int] | None) -> np.ndarray | None:
        """Return the class of each sample, one of `classes` in turn or its image's; None if unknown."""
        labels = self.labels if classes is None else classes
        return None if labels is None else np.resize(np.asarray(labels, np.int32), num_samples)

    def draw(self, path: str, samples: np.ndarray) -> None:
        """Write a picture of the given images and of completions [M, H, W]."""
        images = self.images if self.std == 0 else self.images.clip(0, 1)
        columns = [""] * len(images) if self.labels is None else self.labels.astype(str).tolist()
        figures.completion_grid(path, images, self.mask, samples, columns, original=self.std == 0)

    def scores(self, task: DigitsTask, samples: np.ndarray, labels: np.ndarray | None) -> str:
        """Describe the scores of completions [M, H, W], drawn for labels [M], in a sentence.

        Noisy images are no reference, so that their completions are compared with the data of the task.
        """
        if min(len(samples), len(self.images)) < 4:
            return "Scores need at least 4 images and 4 completions."
        compared, real = "given images", self.images[: len(samples)]
        if self.std > 0:
            compared, real = "real ones", None
        scores = task.score(samples, labels, real)
        accuracy = "" if scores.accuracy is None else f"class accuracy {scores.accuracy:.3f}, "
        return (
            f"{len(samples)} completions: {accuracy}Frechet distance to the {compared} {scores.frechet:.4f}, "
            f"precision {scores.precision:.3f}, recall {scores.recall:.3f}."
        )


def labels_without_class(run: TrainedRun, num_samples: int, guidance_scale: float) -> np.ndarray:
    """Return the labels of completions without a class; raise ValueError if the run cannot draw them."""
    if guidance_scale > 0:
        raise ValueError(
            f"--guidance_scale={guidance_scale:g} strengthens the classes, but these completions have none: "
            "leave it out, or give --classes."
        )
    return np.full(num_samples, run.null_label, np.int32)


def define_flags() -> Callable[[], "Request | None"]:
    """Define the flags of completions; return request(), which reads them."""
    condition = cli.define_path(
        "condition",
        None,
        "Complete images: an .npz with an array images, samples or arr_0, as --samples_out writes it: for "
        "digits [N, H, W] in [0, 1], or uint8 from 0 to 255; for images uint8 [N, H, W, 3]. Its array labels "
        "[N], if there is one, has the classes of the completions, unless --classes is given. Without both, "
        "or with --classes=none, digits are completed without a class. Sample i completes image i modulo N; "
        "--num_samples is N by default.",
    )
    mask = cli.define_path(
        "mask",
        None,
        "With --condition, the pixels to draw anew; the others are known. It is a half, lower, upper, left "
        "or right, or a .png, .npy or .npz of the size of the images, which is white (above 0, True) where "
        "pixels are drawn anew. An array may have a mask for each image, [N, H, W]. For digits it changes at "
        "even rows and columns only.",
    )
    method = flags.DEFINE_enum(
        "condition_method",
        "observe",
        METHODS,
        "With --condition: observe multiplies the predicted mixture by the likelihood of the known pixels "
        "(gmflow_jax.guidance.observe); replace overwrites them after each step by the given ones with fresh "
        "noise, which is the usual baseline.",
    )
    std = flags.DEFINE_float(
        "condition_std",
        0.0,
        "With --condition: standard deviation of Gaussian noise in the given images, for pixels from 0 to 1. "
        "Then --mask may be left out, to denoise whole images.",
    )

    def request() -> Request | None:
        for flag in (condition, mask):
            if flag.value == "":
                raise ValueError(f"--{flag.name} is empty: give a path, or leave it out.")
        if condition.value is not None:
            return Request(condition.value, mask.value, method.value, std.value)
        for flag in (mask, method, std):
            if flag.present:
                raise ValueError(f"--{flag.name} is for completions; give --condition, or leave it out.")
        return None

    return request


@dataclasses.dataclass(frozen=True)
class Request:
    """The values of the flags of a completion."""

    condition: str
    mask: str | None
    method: str
    std: float

    def __post_init__(self):
        variance, single = 4 * self.std * self.std, np.finfo(np.float32)
        if self.std != 0 and not (self.std > 0 and float(single.tiny) <= variance <= float(single.max)):
            raise ValueError(
                f"--condition_std is {self.std}, but must be 0, or from 1e-19 to 9e18, whose variances "
                "float32 can represent."
            )
        if self.std > 0 and self.method == "replace":
            raise ValueError(
                "--condition_method=replace takes the given pixels as they are, so that --condition_std has "
                "no effect: leave it out, or give --condition_method=observe."
            )
        if self.mask is None and self.std == 0:
            raise ValueError(
                "--condition needs --mask, the pixels to draw anew: lower, upper, left, right or a file."
            )

    def check_solver(self, solver: str) -> None:
        """Raise ValueError if a solver changes pixels that are known exactly."""
        if solver == "ddpm_large" and self.method == "observe" and self.std == 0:
            raise ValueError(
                "--solver=ddpm_large adds noise in its last step, to the known pixels too: give another "
                "solver for completions, such as ddpm."
            )

    def read_colored(self, pipe: pipeline.Pipeline) -> Given:
        """Read the files for a pipeline, which draws images; raise ValueError if they do not fit."""
        if self.method != "observe":
            raise ValueError("--condition_method=replace is for runs on digits; leave it out.")
        shape = Shapes.of(pipe.bundle).image
        if shape is None:
            raise ValueError("These networks have no autoencoder, which completions need; add one (vae/).")
        return self.read((shape[0], shape[1]), pipe.bundle.config.num_classes, colored=True)

    def read(self, size: tuple[int, int], num_classes: int, colored: bool = False) -> Given:
        """Read the files.

        Args:
          size: height and width of the images.
          num_classes: number of classes of the labels.
          colored: whether images are uint8 [N, H, W, 3]; otherwise they are grey.

        Raises:
          ValueError: if a file is missing or does not fit.
        """
        shapes = evaluation.npz_shapes(self.condition)
        found = [name for name in _NAMES if name in shapes]
        if len(found) != 1:
            raise ValueError(
                f"{self.condition} must hold the images in one array named images, samples or arr_0, but its "
                f"arrays are: {', '.join(shapes) or 'none'}."
            )
        given = read_array(self.condition, found[0])
        images = (_colored if colored else _grey)(given, size, self.condition, self.std)
        labels = None if num_classes else np.zeros(len(images), np.int32)
        if "labels" in shapes:
            labels = read_array(self.condition, "labels")
            labels = _check_labels(labels, len(images), num_classes, self.condition)
        mask = np.zeros((1, *size), bool) if self.mask is None else read_mask(self.mask, len(images), size)
        if self.std == 0 and not mask.any():
            raise ValueError(f"--mask={self.mask} has no pixel to draw anew: it must be white or True there.")
        if mask.all():
            raise ValueError(
                f"--mask={self.mask} leaves no pixel known, so that there is nothing to complete: it must be "
                "black or False where pixels are known."
            )
        return Given(images, labels, np.broadcast_to(mask, (len(images), *size)), self.method, self.std)


def _grey(images: np.ndarray, size: tuple[int, int], path: str, std: float) -> np.ndarray:
    """Check grey images with noise of `std`, and return them as [N, H, W] in [0, 1], or around it."""
    images = images[..., 0] if images.ndim == 4 and images.shape[-1] == 1 else images
    if images.shape[1:] != size or not len(images):
        raise ValueError(
            f"The images in {path} have shape {images.shape}, but those of this run are grey, [N, {size[0]}, "
            f"{size[1]}]."
        )
    if images.dtype == np.uint8:
        return images.astype(np.float32) / 255
    if images.dtype.kind != "f":
        raise ValueError(
            f"The images in {path} have dtype {images.dtype}; give floats in [0, 1], or uint8 from 0 to 255."
        )
    if not np.isfinite(images).all():
        raise ValueError(f"The images in {path} are NaN or infinite in places; give floats in [0, 1].")
    low, high, margin = float(images.min()), float(images.max()), max(8 * std, 1e-6)
    if low < -margin or high > 1 + margin:
        noisy = f", with --condition_std={std:g} at most {margin:.3g} outside" if std > 0 else ""
        raise ValueError(
            f"The images in {path} range from {low:.3g} to {high:.3g}, but pixels must be in [0, 1]{noisy}; "
            "map those in [-1, 1] with gmflow_jax.data.to_unit_range. If images are noisy, give the standard "
            "deviation of the noise as --condition_std."
        )
    return images.astype(np.float32)


def _colored(images: np.ndarray, size: tuple[int, int], path: str, std: float) -> np.ndarray:
    """Check and return uint8 images [N, H, W, 3]."""
    if std > 0:
        raise ValueError("--condition_std is for digits, whose pixels the network draws; leave it out.")
    if images.dtype != np.uint8 or images.shape[1:] != (*size, 3) or not len(images):
        raise ValueError(
            f"The images in {path} have dtype {images.dtype} and shape {images.shape}, but must be uint8 [N, "
            f"{size[0]}, {size[1]}, 3], as the network draws them."
        )
    return images


def _check_labels(labels: np.ndarray, num_images: int, num_classes: int, path: str) -> np.ndarray:
    if labels.dtype.kind not in "iu" or labels.shape != (num_images,):
        raise ValueError(
            f"The labels in {path} have dtype {labels.dtype} and shape {labels.shape}, but must be a whole "
            f"number for each of the {num_images} images."
        )
    if labels.min() < 0 or labels.max() >= max(num_classes, 1):  # without classes, all are 0
        raise ValueError(
            f"The labels in {path} range from {labels.min()} to {labels.max()}, but those of the network are "
            f"from 0 to {max(num_classes, 1) - 1}."
        )
    return labels.astype(np.int32)
