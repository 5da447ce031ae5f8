"""Reports on pictures: of cells that are drawn, or of a file or folder."""

import hashlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from experiments import cli, cluster, runs
from experiments.provenance import versions
from experiments.scoring import tables
from experiments.scoring.cells import Cell
from experiments.scoring.judges import ImageJudge, bar_of_blocks, measurement
from experiments.scoring.options import Options, check_measurable, load_measurement
from gmflow_jax import data, evaluation

_BATCH = 64


def report_pictures(judge: ImageJudge, cells: Sequence[Cell], out: pathlib.Path) -> None:
    """Draw and score every cell, print the table and write the report, in the first process."""
    with cluster.alike() as notes:
        cells = [judge.resolve(cell) for cell in cells]
        notes["settings"] = judge.settings
    total, quiet = len(cells) * judge.num_samples, jax.process_index() > 0
    with tqdm(total=total, desc="evaluating", unit="image", disable=quiet) as bar, cluster.alike():
        results = [(cell, judge.score(cell, bar.update)) for cell in cells]
    if not quiet:
        print(tables.scores_table(results))
        _write(out, {"rows": tables.to_json(results), **judge.settings})


def report_picture_samples(path: str, options: Options, out: pathlib.Path) -> None:
    """Score the pictures of an .npz (uint8 arr_0) or a folder, print the scores and write the report."""
    with cli.user_input():
        check_measurable(options)
        source, num_images, image_size, batches = _open(path)
        evaluation.check_metrics(options.metrics or evaluation.IMAGE_METRICS, num_images)
        extractor, reference = load_measurement(options, image_size)
        metrics = options.metrics or evaluation.available_metrics(reference)
        evaluation.check_metrics(metrics, num_images, reference)
        bar = tqdm(batches, desc="samples", unit="batch", total=-(-num_images // _BATCH))
        features = evaluation.image_features(extractor, bar)
        scores = evaluation.image_scores(features, reference, metrics, options.neighbours, bar_of_blocks)
    print(tables.aligned([["score", "value"], *([name, f"{v:.6g}"] for name, v in scores.items())]))
    settings = {"samples": {"path": path, "num_images": num_images, **source}}
    _write(out, {"scores": scores, **settings, **measurement(extractor, reference, options.neighbours)})


def _write(out: pathlib.Path, content: dict[str, Any]) -> None:
    runs.write_json(out, {**content, "versions": versions()})
    print(f"Wrote {out}.")


def _open(path: str) -> tuple[dict[str, Any], int, int, Iterator[np.ndarray]]:
    """Identity, number, height and batches of the pictures in a file or a folder."""
    if not path.endswith(".npz"):
        images = data.open_images(path, need_classes=False)
        size = min(images.open(0).size)
        return images.description, len(images), size, data.read_images(images, size, _BATCH)
    batches = evaluation.npz_rows(path, "arr_0", _BATCH)
    shape, _ = evaluation.npz_shapes(path)["arr_0"]
    evaluation.check_images(next(evaluation.npz_rows(path, "arr_0", 1), np.empty((0, *shape[1:]))))
    with open(path, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest}, shape[0], shape[1], batches
