"""Reports: score runs or samples against the real data, print the table, write report.json and a picture."""

import json
import os
import pathlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from tqdm.auto import tqdm

import gmflow_jax
from experiments import cli, runs, trained
from experiments.tasks import Row, make_scored_task
from gmflow_jax import evaluation, flow
from gmflow_jax.solvers import Solver

_FIRST_SEED = 0  # choices were made on other seeds


def report(
    workdirs: list[str],
    out: str | os.PathLike,
    solvers: Sequence[str] = (),
    num_steps: Sequence[int] = (),
) -> list[Row]:
    """Score runs; write the report and the picture; print the table.

    With the solvers and numbers of steps that their configurations ask for, where none are given.
    """
    out = pathlib.Path(out)
    with cli.user_input():
        loaded = load_comparable(workdirs)
        check_out(out)
        entries = [
            (run, entry)
            for workdir, run in zip(workdirs, loaded, strict=True)
            for entry in _asked(solvers, workdir if len(workdirs) > 1 else "") or run.config.report.rows
        ]
        cells = [(run, entry, n) for run, entry in entries for n in num_steps or _steps(run, entry)]
        for cell in cells:
            _solver(*cell)
    task = loaded[0].task
    # The next cells compile while this one samples.
    with ThreadPoolExecutor(1) as pool, tqdm(total=len(cells), desc="evaluating", unit="cell") as bar:
        rows = []
        for (run, entry, n), sampler in zip(cells, pool.map(_compile, cells), strict=True):
            bar.set_postfix_str(f"{entry['name']}, {n} steps")
            rows.append(_score(run, entry, trained.num_calls(entry["solver"], n), sampler))
            bar.update()
    references = task.reference_rows()
    print(format_table(rows, references, task.score_names))
    picture = out.with_suffix(".png")
    task.draw(picture, rows)
    _write_json(out, {
        **provenance(workdirs, loaded),
        "rows": [{"solver": row.solver, "nfe": row.nfe, **_named(row.scores)} for row in rows],
        "references": [{"name": name, **_named(scores)} for name, scores in references],
        "num_samples": len(task.evaluation_labels),
        "seeds": list(range(_FIRST_SEED, _FIRST_SEED + loaded[0].config.report.num_seeds)),
        "seed_rule": "sample i of seed s: fold_in(key(s), i)",
    })
    print(f"Wrote {out} and {picture}.")
    return rows


def load_comparable(workdirs: Sequence[str]) -> list[trained.TrainedRun]:
    """Load runs that can share a table; ValueError if they are of different tasks."""
    loaded = [trained.load_run(workdir) for workdir in workdirs]
    names = {run.config.task for run in loaded}
    if len(names) > 1:
        raise ValueError(
            f"The runs are of different tasks ({', '.join(sorted(names))}), whose scores do not "
            "share a table. Evaluate them apart."
        )
    return loaded


def provenance(workdirs: Sequence[str], loaded: Sequence[trained.TrainedRun]) -> dict:
    """What a report says of the runs and the versions that made it."""
    return {
        "runs": [
            {"workdir": str(w), "step": run.step, "config": json.loads(run.config.to_json_best_effort())}
            for w, run in zip(workdirs, loaded, strict=True)
        ],
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Of what made a report, and the devices."""
    devices = f"{jax.device_count()} {jax.devices()[0].device_kind}"
    return {
        "gmflow_jax": gmflow_jax.__version__, "jax": jax.__version__, "numpy": np.__version__,
        "devices": devices,
    }  # fmt: skip


def _steps(run, entry) -> tuple[int, ...]:
    return tuple(entry.get("num_steps") or run.config.report.num_steps)


def _asked(names: Sequence[str], workdir: str) -> list[dict]:
    return [{"name": f"{workdir}: {name}" if workdir else name, "solver": name} for name in names]


def _solver(run, entry, num_steps) -> Solver:
    spectrum = run.spectrum(entry["solver"], wanted=entry.get("spectrum", False))
    shift = run.config.report.shift
    return trained.make_solver(
        entry["solver"], num_steps, entry.get("order", 2), shift=shift, spectrum=spectrum
    )


def _compile(cell) -> Callable:
    run, entry, num_steps = cell
    num_samples = len(run.task.evaluation_labels)
    times = flow.time_grid(num_steps, run.config.report.shift)
    return run.sampler(_solver(*cell), times, num_samples, bool(entry.get("guidance_scale")))


def _score(run: trained.TrainedRun, entry, nfe: int, sampler: Callable) -> Row:
    """Sample and score one cell of the table, once for each seed."""
    labels = run.task.evaluation_labels
    scores, first = [], None
    for seed in range(_FIRST_SEED, _FIRST_SEED + run.config.report.num_seeds):
        samples = sampler(jax.random.key(seed), labels, entry.get("guidance_scale", 0.0))
        first = samples if first is None else first
        scores.append(run.task.score(samples, labels))
    return Row(entry["name"], nfe, first, evaluation.seed_spread(scores))


def format_table(rows: list[Row], references: list[tuple[str, dict]], names: tuple[str, ...]) -> str:
    """Solvers in lines, NFE in columns, one block for each score, the reference rows below."""
    nfes = sorted({row.nfe for row in rows})
    solvers = list(dict.fromkeys(row.solver for row in rows))
    found = {(row.solver, row.nfe): row.scores for row in rows}
    width = max(len(s) for s in [*solvers, *(name for name, _ in references), "solver"]) + 2
    lines = []
    for score in names:
        lines.append(f"\n{score.replace('_', ' ')} (mean ± std over seeds)")
        lines.append("NFE".ljust(width) + "".join(f"{nfe:>16}" for nfe in nfes))
        for solver in solvers:
            cells = (found.get((solver, nfe), {}).get(score) for nfe in nfes)
            lines.append(solver.ljust(width) + "".join(f"{_cell(c):>16}" for c in cells))
        for name, scores in references:
            lines.append(name.ljust(width) + f"{_cell(scores.get(score)):>16}")
    return "\n".join(lines) + "\n"


def _cell(value: tuple[float, float] | None) -> str:
    return "" if value is None else f"{value[0]:.3f} ± {value[1]:.3f}"


def _named(scores: dict) -> dict:
    return {k: v and {"mean": round(v[0], 6), "std": round(v[1], 6)} for k, v in scores.items()}


def check_out(out: pathlib.Path) -> None:
    if out.suffix != ".json":
        raise ValueError(f"--out must end in .json, but {str(out)!r} was given.")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"The folder of {out} does not exist. Make it, or write elsewhere.")


def _write_json(path: pathlib.Path, content: dict) -> None:
    runs.write_text(path, json.dumps(content, indent=2) + "\n")


def report_samples(path: str, reference: str, out: pathlib.Path) -> None:
    """Score a file written by `experiments.sample --samples_out` against a task's real data."""
    with cli.user_input():
        check_out(out)
        task = make_scored_task(reference)
        try:
            with np.load(path, allow_pickle=False) as archive:
                missing = {"samples", "labels"} - set(archive.files)
                if missing:
                    raise ValueError(
                        f"{path} has no array {' or '.join(sorted(missing))}; it holds "
                        f"{', '.join(archive.files)}. Write it with experiments.sample --samples_out."
                    )
                samples, labels = archive["samples"], archive["labels"]
        except FileNotFoundError as error:
            raise ValueError(
                f"There is no file {path}. Write it with experiments.sample --samples_out."
            ) from error
        scores = evaluation.seed_spread([task.score(samples, labels)])
    references = task.reference_rows()
    print(format_table([Row("samples", 0, samples, scores)], references, task.score_names))
    _write_json(out, {
        "samples": path,
        "reference": reference,
        "num_samples": len(samples),
        "scores": {k: v and v[0] for k, v in scores.items()},
        "references": [{"name": name, **_named(s)} for name, s in references],
    })
    print(f"Wrote {out}.")
