"""Reports on images: of cells that are drawn, or of a file or a folder."""

import hashlib
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from experiments.common import cli, cluster, files
from experiments.common.provenance import versions
from experiments.scoring import measure, tables
from experiments.scoring.cells import Cell
from experiments.scoring.image_evaluator import ImageEvaluator
from experiments.scoring.options import RUN_FLAGS, Options, exif_orientation, load_measurement
from gmflow_jax import data, evaluation

_BATCH = 64
_THREADS = 16


def report_images(
    evaluator: ImageEvaluator, cells: Sequence[Cell], origin: Mapping[str, Any], out: pathlib.Path
) -> None:
    """Draw and score cells, write the report and print the table.

    The first process writes the report anew after each cell, and prints the table at the end.

    Args:
      evaluator: the network and its measurement.
      cells: cells that `evaluator.resolve` returned.
      origin: paths of the network and of the files that it was measured with, for the report.
      out: the report, a .json file.
    """
    total, quiet = len(cells) * evaluator.num_samples, jax.process_index() > 0
    results = []
    with tqdm(total=total, desc="evaluating", unit="image", disable=quiet) as bar:
        for cell in cells:
            results.append((cell, evaluator.score(cell, bar.update)))
            with cluster.fail_together():
                if not quiet:  # if a later cell fails, the report has the earlier ones
                    _write(out, {"rows": tables.to_json(results), "origin": origin, **evaluator.settings})
    if not quiet:
        _print(tables.scores_table(results), evaluator.measurement, out)


def report_image_samples(path: str, options: Options, out: pathlib.Path) -> None:
    """Score existing images, print the scores and write the report.

    Args:
      path: an .npz with uint8 images in arr_0, or a folder of images.
      options: the flags, which name Inception's weights, the reference and the metrics.
      out: the report, a .json file.

    Raises:
      cli.UserError: if a flag has no effect on existing images, or a file cannot be used.
    """
    with cli.report_user_errors():
        options.refuse(["batch_size", *RUN_FLAGS], "the samples have been drawn already.")
        measure.check_files(options.inception, options.reference, options.reference_out)
        digest = hashlib.sha256()
        upright = exif_orientation(options)
        num_images, image_size, batches = _open_images(path, digest, upright)
        evaluation.check_metrics(options.metrics or evaluation.IMAGE_METRICS, num_images)
        measurement = load_measurement(options, image_size, num_images)
        bar = tqdm(batches, desc="samples", unit="batch", total=-(-num_images // _BATCH))
        scores = measurement.scores(measurement.features(bar))
    samples = {
        "path": path, "num_images": num_images, "image_size": image_size, "sha256": digest.hexdigest(),
    }  # fmt: skip
    if upright:
        samples["exif_orientation"] = True
    content = {"scores": scores, "samples": samples, "origin": options.origin}
    _write(out, {**content, **measurement.settings})
    lines = [["score", "value"], *([name, f"{v:.6g}"] for name, v in scores.items())]
    _print(tables.aligned(lines), measurement, out)


def _write(out: pathlib.Path, content: dict[str, Any]) -> None:
    files.write_json(out, {**content, "versions": versions()})


def _print(table: str, measurement: measure.Measurement, out: pathlib.Path) -> None:
    print(table)
    if measurement.unavailable_note:
        print(measurement.unavailable_note)
    print(f"Wrote {out}.")


def _open_images(path: str, digest: Any, upright: bool) -> tuple[int, int, Iterator[np.ndarray]]:
    """Return number, height and batches of images; each batch that is read also updates `digest`."""
    if not path.endswith(".npz"):
        images = data.open_images(path, need_classes=False)
        with ThreadPoolExecutor(_THREADS) as pool:  # the images of a bucket come slowly, one after another
            sizes = sorted(set(pool.map(lambda i: images.open(i).size, range(len(images)))))
        if len(sizes) > 1 or sizes[0][0] != sizes[0][1]:
            found = " and ".join(f"{width} x {height}" for width, height in sizes[:2])
            raise ValueError(
                f"The images in {path} have {found} pixels, but must be square and all of one size; crop or "
                "resize them first."
            )
        size = sizes[0][0]
        batches = data.read_images(images, size, _BATCH, digest=digest, exif_orientation=upright)
        return len(images), size, batches
    batches = evaluation.npz_rows(path, "arr_0", _BATCH)
    shape, _ = evaluation.npz_shapes(path)["arr_0"]
    evaluation.check_images(next(evaluation.npz_rows(path, "arr_0", 1), np.empty((0, *shape[1:]))))
    return shape[0], shape[1], _hashed(batches, digest)


def _hashed(batches: Iterator[np.ndarray], digest: Any) -> Iterator[np.ndarray]:
    for images in batches:
        digest.update(images)
        yield images
