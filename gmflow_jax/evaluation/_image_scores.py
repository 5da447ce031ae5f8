"""Scores of images from their features and a reference."""

from collections.abc import Collection

from gmflow_jax.evaluation._frechet import frechet_distance
from gmflow_jax.evaluation._image_features import ImageFeatures
from gmflow_jax.evaluation._inception_score import inception_score
from gmflow_jax.evaluation._kernel import kernel_distance
from gmflow_jax.evaluation._neighbours import DType, Progress
from gmflow_jax.evaluation._precision_recall import density_coverage, precision_recall
from gmflow_jax.evaluation._reference import Reference

# The fields that each metric uses of the images' features, and of the reference.
_NEEDS = {
    "fid": ((), ("pool3",)),
    "sfid": ((), ("spatial",)),
    "inception_score": (("logits",), ()),
    "precision_recall": (("rows",), ("rows",)),
    "density_coverage": (("rows",), ("rows",)),
    "kid": (("rows",), ("rows",)),
    "colours": ((), ()),
}
IMAGE_METRICS = tuple(_NEEDS)
_LEAST = {"inception_score": 10, "precision_recall": 4, "density_coverage": 6}  # images; others need 2


def available_metrics(reference: Reference, keep_rows: bool = True) -> tuple[str, ...]:
    """Return the `IMAGE_METRICS` that can be computed from this reference.

    Args:
      reference: the reference.
      keep_rows: whether the features of each image are kept, see `image_features`.

    Returns:
      Names of metrics.
    """
    return tuple(
        name
        for name, (of_images, of_reference) in _NEEDS.items()
        if (keep_rows or not of_images) and all(getattr(reference, p) is not None for p in of_reference)
    )


def check_metrics(
    metrics: Collection[str],
    num_samples: int,
    reference: Reference | None = None,
    keep_rows: bool = True,
) -> None:
    """Check, before images are drawn, that metrics can be computed.

    Args:
      metrics: names of metrics.
      num_samples: number of images.
      reference: the reference; None leaves the check of its contents for later.
      keep_rows: whether the features of each image are kept, see `image_features`.

    Raises:
      ValueError: if a metric is unknown, there are too few images for it, or the reference or the kept
        features do not suffice.
    """
    for name in metrics:
        if name not in _NEEDS:
            raise ValueError(f"There is no metric {name!r}. Choose from {', '.join(IMAGE_METRICS)}.")
        _check_number(name, num_samples, "images")
        if reference is not None and name not in available_metrics(reference, keep_rows):
            lacking = ", ".join(p for p in _NEEDS[name][1] if getattr(reference, p) is None)
            reason, advice = "each image's features were not kept", "keep them"
            if lacking:
                reason, advice = f"the reference has no {lacking}", "give a reference made of images"
            raise ValueError(f"{name} cannot be measured, for {reason}. Leave it out, or {advice}.")
        if reference is not None and reference.rows is not None and "rows" in _NEEDS[name][1]:
            _check_number(name, len(reference.rows), "images of the reference")


def _check_number(name: str, number: int, what: str) -> None:
    least = _LEAST.get(name, 2)
    if number < least:
        raise ValueError(
            f"{number} {what} are too few for {name}: it takes at least {least}, and published scores "
            "use 50,000."
        )


def image_scores(
    features: ImageFeatures,
    reference: Reference,
    metrics: Collection[str] | None = None,
    neighbours: DType = "float32",
    progress: Progress | None = None,
) -> dict[str, float]:
    """Score images against a reference.

    Args:
      features: features of the images.
      reference: features of real images.
      metrics: names out of `IMAGE_METRICS`; None is all that can be computed.
      neighbours: `dtype` of `precision_recall`, for precision, recall, density and coverage.
      progress: wraps the blocks of these four, such as tqdm; None is no display.

    Returns:
      Scores by name. 'fid' and 'sfid' are Frechet distances of the pool3 and the spatial features;
      'inception_score' is the mean of 10 parts; 'precision' and 'recall' have k = 3, 'density' and
      'coverage' k = 5; 'kid' is the unbiased kernel distance of all features; 'saturation', 'brightness'
      and 'contrast', the metric 'colours', are means over images.

    Raises:
      ValueError: if a metric is unknown or cannot be computed, for instance from too few images.

    Source:
      FID: Heusel et al. 2017. sFID: Nash et al. 2021. Inception Score: Salimans et al. 2016. Precision and
      recall: Kynkaanniemi et al. 2019. Density and coverage: Naeem et al. 2020. KID: Binkowski et al. 2018.
    """
    keep_rows = features.rows is not None
    names = available_metrics(reference, keep_rows) if metrics is None else metrics
    check_metrics(names, features.pool3.num_samples, reference, keep_rows)
    scores = {}
    for name in names:
        scores |= _score(name, features, reference, neighbours, progress)
    return scores


def _score(
    name: str, features: ImageFeatures, reference: Reference, neighbours: DType, progress: Progress | None
) -> dict[str, float]:
    sets, options = (reference.rows, features.rows), {"dtype": neighbours, "progress": progress}
    if name in ("fid", "sfid"):
        part = "pool3" if name == "fid" else "spatial"
        statistics, moments = getattr(features, part), getattr(reference, part)
        return {name: frechet_distance(statistics.mean, statistics.covariance, *moments)}
    if name == "inception_score":
        return {name: inception_score(features.logits)}
    if name == "precision_recall":
        return dict(zip(("precision", "recall"), precision_recall(*sets, **options), strict=True))
    if name == "density_coverage":
        return dict(zip(("density", "coverage"), density_coverage(*sets, **options), strict=True))
    if name == "kid":
        return {name: kernel_distance(*sets)}
    return {name: float(values.mean()) for name, values in features.colors.items()}
