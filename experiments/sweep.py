"""Sweep guidance scales, steps and solvers for the best FID (or Frechet distance) and the best precision.

  python -m experiments.sweep --config=experiments/configs/sweep_digits.py --workdir=runs/digits
    --out=sweeps/digits
  python -m experiments.sweep --config=experiments/configs/sweep_table2.py --checkpoint=checkpoints/imagenet
    --inception=inception.safetensors --reference=VIRTUAL_imagenet256_labeled.npz --out=sweeps/table2
  python -m experiments.sweep ... --row=A0 --row=B0

A cell is a row of the configuration at one number of steps and one guidance scale. A distilled network is
swept in the number of calls that it was made for, unless --config.num_steps is given.

The folder --out receives a file for each cell in cells/, then sweep.json, sweep.txt (the tables) and
sweep.png (precision and recall).

The same command continues where it stopped. Rows, steps and scales may be added; other settings that affect
the scores must not change. On several hosts, start the same command on each, with --out on a shared disk or
in a bucket.
"""

import pathlib
from collections.abc import Sequence

import jax
from absl import flags
from ml_collections import config_flags
from tqdm.auto import tqdm

from experiments.common import cli, cluster, files
from experiments.common.provenance import versions
from experiments.runs import folder, trained
from experiments.scoring import cells, curves, measure, options, tables
from experiments.scoring.image_evaluator import ImageEvaluator
from experiments.scoring.run_evaluator import RunEvaluator
from gmflow_jax._files import check_writable, to_path

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, for example experiments/configs/sweep_digits.py.", lock_config=True
)
_ROWS = flags.DEFINE_multi_string(
    "row", [], "Row to sweep, by its name or its first words, such as A0; repeat for more. By default all."
)
_WORKDIR = cli.define_path("workdir", None, "Folder of a run on digits or on latents.")
_OUT = cli.define_path("out", None, "Folder of the sweep; it is created.")
_READ_OPTIONS = options.define_flags()
_JOIN_PROCESSES = cluster.define_flags()


def main() -> None:
    if _CONFIG.value is None or _OUT.value is None:
        raise cli.UserError(
            "--config and --out are needed, for example --config=experiments/configs/sweep_digits.py "
            "--out=sweeps/digits."
        )
    _JOIN_PROCESSES()
    config = _CONFIG.value
    with cluster.fail_together() as notes:
        out = to_path(_OUT.value)
        if jax.process_index() == 0:
            check_writable(out)
        if "rows" not in config:
            raise ValueError("--config is no sweep: it has no rows; see experiments/configs/sweep_*.py.")
        evaluator, grid = _make_evaluator(config)
        notes["settings"] = evaluator.settings
        folder.check_unchanged(out / "settings.json", evaluator.settings, "setting of the sweep", "--out")
    with cluster.fail_together():
        if jax.process_index() == 0:
            (out / "cells").mkdir(parents=True, exist_ok=True)
            files.write_json(out / "settings.json", evaluator.settings)
    with cluster.fail_together() as notes:
        cluster.check_shared(out, "--out")
        done = _read_cells(grid, out / "cells")
        notes["done"] = sorted(done)  # hosts that drew different cells would wait for each other
    results = _sweep(evaluator, grid, done, out / "cells")
    if jax.process_index() == 0:
        _report(evaluator, results, out)


def _make_evaluator(config) -> tuple[RunEvaluator | ImageEvaluator, list[cells.Cell]]:
    """Return the evaluator, and the cells with all defaults filled in."""
    rows = cells.select_rows(config.rows, _ROWS.value)
    if config.num_samples < 1:
        raise ValueError(f"num_samples is {config.num_samples}; give --config.num_samples, usually 50000.")
    if not 0 <= config.seed < 2**32:
        raise ValueError(f"seed is {config.seed}, but must be from 0 to 2**32 - 1.")
    flag_values = _READ_OPTIONS(_WORKDIR.value)
    draws_images = options.draws_images(flag_values)
    num_calls = options.num_calls(flag_values)
    given = config_flags.get_override_values(flags.FLAGS["config"])
    num_steps = config.num_steps if num_calls is None or "num_steps" in given else (num_calls,)
    grid = cells.make_cells(rows, num_steps, config.guidance_scales, config.cfg_scales)
    if draws_images:
        needed = ("fid", "precision_recall")
        return options.make_image_evaluator(
            flag_values, grid, config.num_samples, config.labels, config.seed, needed, measure.SWEPT_METRICS
        )
    flag_values.refuse(["metrics"], "runs on digits have scores of their own.")
    if jax.process_count() > 1:
        raise ValueError("A sweep of a run on digits uses one process; start it on one host.")
    run = trained.load_run(_WORKDIR.value)
    if not run.task.class_names:
        raise ValueError(
            f"The run in {_WORKDIR.value} has no classes and no guidance; give a run on digits or latents."
        )
    evaluator = RunEvaluator(_WORKDIR.value, run)
    return evaluator, [evaluator.resolve(cell) for cell in grid]


def _read_cells(grid: Sequence[cells.Cell], cells_folder: pathlib.Path) -> dict[str, dict[str, float]]:
    """Read the scores of cells that an earlier call has written, by key."""
    done = {}
    written = set(cells_folder.iterdir()) if cells_folder.is_dir() else set()  # none yet in a bucket
    for cell in grid:
        path = cells_folder / f"{cell.key}.json"
        if path in written:
            folder.check_unchanged(path, {"cell": cell.to_json()}, "cell of that name", "--out")
            done[cell.key] = files.read_json(path)["scores"]
    return done


def _sweep(
    evaluator, grid: Sequence[cells.Cell], done, cells_folder: pathlib.Path
) -> list[tables.Result]:
    """Return the scores of every cell; draw the missing cells, and write each when it is done."""
    results, total = [], len(grid) * evaluator.num_samples
    with tqdm(total=total, desc="sweep", unit="sample", disable=jax.process_index() > 0) as bar:
        for number, cell in enumerate(grid, 1):
            bar.set_postfix_str(f"{cell.key}, cell {number} of {len(grid)}")
            scores, start = done.get(cell.key), bar.n
            if scores is None:
                scores = evaluator.score(cell, bar.update)
                content = {"cell": cell.to_json(), "scores": scores, "versions": versions()}
                with cluster.fail_together():
                    if jax.process_index() == 0:
                        files.write_json(cells_folder / f"{cell.key}.json", content)
            bar.update(start + evaluator.num_samples - bar.n)
            results.append((cell, scores))
    return results


def _report(evaluator, results: Sequence[tables.Result], out: pathlib.Path) -> None:
    bests = tables.best_of(results, evaluator.distance)
    best = tables.best_table(bests, evaluator.distance, evaluator.real_saturation)
    text = f"{best}\n{tables.scores_table(results)}"
    print(text)
    files.write_text(out / "sweep.txt", text)
    files.write_json(out / "sweep.json", {
        "settings": evaluator.settings,
        "origin": _READ_OPTIONS(_WORKDIR.value).origin,
        "versions": versions(),
        "cells": tables.to_json(results),
        "best": tables.bests_to_json(bests),
    })  # fmt: skip
    curves.precision_recall_curves(out / "sweep.png", results)
    print(f"Wrote sweep.json, sweep.txt and sweep.png to {out}.")


if __name__ == "__main__":
    cli.run(main)
