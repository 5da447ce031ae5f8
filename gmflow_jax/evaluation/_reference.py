"""References of the metrics: statistics and features of real images."""

import dataclasses
import hashlib
import os
import pathlib
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from gmflow_jax._files import naming, to_path, write_arrays
from gmflow_jax.evaluation._checks import finite
from gmflow_jax.evaluation._frechet import check_covariance
from gmflow_jax.evaluation._image_features import COLORS, ImageFeatures, image_features
from gmflow_jax.evaluation._npz import npz_rows, npz_shapes

if TYPE_CHECKING:
    from gmflow_jax.evaluation._extract import FeatureExtractor

# The names of parts here, and their names in the files of ADM's evaluator and of the authors.
_NAMES = {
    "mean": ("mu", "mean"),
    "covariance": ("sigma", "cov"),
    "spatial_mean": ("mu_s",),
    "spatial_covariance": ("sigma_s",),
    "rows": ("pool3", "real_feats_np"),
    "images": ("arr_0",),
}
_FORMS = (
    "the images arr_0 (uint8 [N, H, W, 3]), ADM's mu, sigma, mu_s and sigma_s, or the authors' mean, cov and "
    "real_feats_np"
)
_BATCH = 64
_EXTRACTOR, _COUNT = "inception", "num_images"  # the inception network is identified by its fingerprint


class Moments(NamedTuple):
    """First two moments of features.

    Attributes:
      mean: [D].
      covariance: [D, D].
    """

    mean: np.ndarray
    covariance: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Reference:
    """Features of real images. A field is None if it is not available.

    Attributes:
      pool3: moments of Inception's pool3 features.
      spatial: moments of its spatial features.
      rows: pool3 features [M, 2048] of some of the images.
      colors: means over images of saturation, brightness and contrast, by name.
      source: identity of the reference, as JSON.
    """

    pool3: Moments | None
    spatial: Moments | None
    rows: np.ndarray | None
    colors: dict[str, float] | None
    source: dict[str, Any]


def load_reference(
    path: str | os.PathLike[str],
    extractor: "FeatureExtractor",
    image_size: int | None = None,
    progress: Callable[[Iterable], Iterable] = iter,
    exif_orientation: bool = False,
) -> Reference:
    """Load a reference from a file or from a folder of images.

    Args:
      path: path or address of an .npz file with the images `arr_0`, or ADM's `mu`, `sigma`, `mu_s` and
        `sigma_s`, or the authors' `mean`, `cov` and `real_feats_np`, or what `save_reference` wrote.
        Statistics in the file take precedence over those of its images. Or images as for `data.open_images`,
        cropped to `image_size`; they need no classes.
      extractor: the feature network, for images.
      image_size: pixels along a side of the crop, for a folder of images.
      progress: wraps the batches of images, such as tqdm.
      exif_orientation: for a folder of images, whether to turn them upright, see `data.center_crop`.

    Returns:
      The reference.

    Raises:
      ValueError: if the file has no such arrays, is damaged, or has features of another width or of another
        Inception network, or `image_size` is missing for a folder.
    """
    path = to_path(path)
    if path.suffix == ".npz":
        return _from_file(path, extractor, progress)
    from gmflow_jax import data

    images = data.open_images(path, need_classes=False)
    if image_size is None:
        raise ValueError(f"{path} holds images, but the size of their crops is unknown; give image_size.")
    digest = hashlib.sha256()
    crops = data.read_images(images, image_size, _BATCH, digest=digest, exif_orientation=exif_orientation)
    features = image_features(extractor, progress(crops))
    source = {"kind": images.kind, "image_size": image_size, "sha256": digest.hexdigest()}
    if exif_orientation:  # left out otherwise, so that references of earlier reports stay the same
        source["exif_orientation"] = True
    return _of_images(features, {"path": str(path), **source})


def save_reference(
    path: str | os.PathLike[str], reference: Reference, extractor: "FeatureExtractor"
) -> None:
    """Write a reference, which `load_reference` reads without the images.

    The arrays have ADM's names; the features are `pool3`.

    Args:
      path: the file, with the ending .npz.
      reference: the reference.
      extractor: the network that computed it, whose fingerprint is saved too.

    Raises:
      ValueError: if `path` does not end in .npz.
    """
    path = to_path(path)
    if path.suffix != ".npz":
        raise ValueError(f"A reference is an .npz file, but {path} was given.")
    arrays = {"pool3": reference.rows, **(reference.colors or {}), _EXTRACTOR: extractor.fingerprint}
    arrays[_COUNT] = reference.source.get(_COUNT)
    for moments, names in ((reference.pool3, ("mu", "sigma")), (reference.spatial, ("mu_s", "sigma_s"))):
        arrays |= dict(zip(names, moments or (None, None), strict=True))
    known = {name: value for name, value in arrays.items() if value is not None}
    write_arrays(path, **known)


def _from_file(path: pathlib.Path, extractor: "FeatureExtractor", progress) -> Reference:
    shapes = npz_shapes(path)
    names = {part: next((n for n in known if n in shapes), None) for part, known in _NAMES.items()}
    if not any(names[part] for part in ("mean", "rows", "images")):
        raise ValueError(f"{path} holds {', '.join(shapes) or 'nothing'}, but a reference is {_FORMS}.")
    with naming(path), path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    wanted = {*names.values(), _EXTRACTOR, _COUNT, *COLORS} & shapes.keys()
    arrays = _read(path, wanted - {names["images"]})
    stored = {part: arrays[name] for part, name in names.items() if name in arrays}
    if str(arrays.get(_EXTRACTOR, extractor.fingerprint)) != extractor.fingerprint:
        raise ValueError(
            f"The features in {path} were made by another Inception; make them again with this one, or give "
            "the weights that made them."
        )
    widths = extractor.widths
    given = Reference(
        _moments(path, stored, "mean", "covariance", widths.pool3),
        _moments(path, stored, "spatial_mean", "spatial_covariance", widths.spatial),
        _rows(path, stored.get("rows"), widths.pool3),
        {name: float(arrays[name]) for name in COLORS if name in arrays} or None,
        {"path": str(path), "sha256": digest, "arrays": sorted(shapes)}
        | {name: int(arrays[name]) for name in (_COUNT,) if name in arrays},
    )
    if not names["images"] or (given.rows is not None and given.pool3 is not None):
        return given
    batches = progress(npz_rows(path, names["images"], _BATCH))
    computed = _of_images(image_features(extractor, batches), given.source)
    pool3, spatial = given.pool3 or computed.pool3, given.spatial or computed.spatial
    return dataclasses.replace(computed, pool3=pool3, spatial=spatial)


def _read(path: pathlib.Path, names: Collection[str]) -> dict[str, np.ndarray]:
    try:
        with naming(path), path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            return {name: archive[name] for name in names}
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); make it or fetch it again.") from error


def _of_images(features: ImageFeatures, source: dict[str, Any]) -> Reference:
    return Reference(
        Moments(features.pool3.mean, features.pool3.covariance),
        Moments(features.spatial.mean, features.spatial.covariance),
        features.rows,
        {name: float(values.mean()) for name, values in features.colors.items()},
        {**source, _COUNT: features.pool3.num_samples},
    )


def _moments(path, stored, mean_name: str, covariance_name: str, width: int) -> Moments | None:
    mean, covariance = stored.get(mean_name), stored.get(covariance_name)
    if mean is None and covariance is None:
        return None
    if mean is None or covariance is None:
        lacking = _NAMES[mean_name if mean is None else covariance_name]
        raise ValueError(f"{path} has only half of the statistics: {' or '.join(lacking)} is missing.")
    if mean.shape != (width,) or covariance.shape != (width, width):
        raise ValueError(
            f"The statistics in {path} have shapes {mean.shape} and {covariance.shape}, but this Inception's "
            f"features are {width} wide; give statistics of the same features."
        )
    moments = Moments(finite(mean, f"the mean in {path}"), finite(covariance, f"the covariance in {path}"))
    check_covariance(moments.covariance, f"The covariance in {path}")  # before images are drawn
    return moments


def _rows(path, rows: np.ndarray | None, width: int) -> np.ndarray | None:
    if rows is None:
        return None
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ValueError(
            f"The features in {path} have shape {rows.shape}, but this Inception's are [images, {width}]; "
            "give features of the same Inception."
        )
    return finite(rows, f"the features in {path}", np.float32)
