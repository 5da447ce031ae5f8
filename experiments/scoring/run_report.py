"""Reports on runs and on samples of digits or points: a printed table, a JSON file and a picture."""

import collections
import dataclasses
import os
import pathlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tqdm.auto import tqdm

from experiments.common import cli, files, provenance, solver_choices
from experiments.runs import teachers, trained
from experiments.scoring import tables
from experiments.scoring.cells import SEED_RULE, Cell, make_cells, report_steps
from experiments.scoring.run_evaluator import RunEvaluator
from experiments.tasks.make import make_scored_task
from experiments.tasks.rows import ReportRow
from gmflow_jax import evaluation, models
from gmflow_jax._files import to_path

_Job = tuple[RunEvaluator, Cell]


def report(
    workdirs: list[str],
    out: str | os.PathLike,
    solvers: Sequence[str] = (),
    num_steps: Sequence[int] = (),
) -> list[ReportRow]:
    """Draw and score samples of runs, write the report and the picture, and print the table.

    Args:
      workdirs: folders of runs of one task.
      out: the report, a .json file; the picture has the same name with the ending .png.
      solvers: names of solvers; if empty, the rows of each run's configuration.
      num_steps: numbers of steps; if empty, those of each run's configuration.

    Returns:
      The rows of the table, without the reference rows.

    Raises:
      cli.UserError: if the runs, solvers and steps do not fit, or `out` cannot be written.
    """
    out = to_path(out)
    with cli.report_user_errors():
        loaded = trained.load_comparable(workdirs)
        provenance.check_out(out)
        jobs, teachers_done = [], set()
        for workdir, run in zip(workdirs, loaded, strict=True):
            evaluator = RunEvaluator(workdir, run)
            jobs += [(evaluator, evaluator.resolve(cell)) for cell in _cells(run, solvers, num_steps)]
            teacher = run.config.get("teacher")
            if teacher and teacher not in teachers_done and not solvers and not num_steps:
                teachers_done.add(teacher)
                jobs += _teacher_jobs(workdir, run)
        jobs = _with_distinct_names(jobs)
    task = loaded[0].task
    rows = _score(jobs)
    references = task.reference_rows()
    print(tables.report_table(rows, references, task.score_names))
    picture = out.with_suffix(".png")
    task.draw(picture, rows)
    files.write_json(out, {
        "runs": trained.describe_runs(workdirs, loaded),
        "versions": provenance.versions(),
        "rows": [
            {"solver": row.solver, "nfe": row.nfe, **_scores_to_json(row.scores), "cell": cell.to_json()}
            for row, (_, cell) in zip(rows, jobs, strict=True)
        ],
        "references": [{"name": name, **_scores_to_json(scores)} for name, scores in references],
        "num_samples": len(task.evaluation_labels),
        "seeds": jobs[0][0].seeds,
        "seed_rule": SEED_RULE,
    }, sort_keys=False)  # fmt: skip
    print(f"Wrote {out} and {picture}.")
    return rows


def _cells(
    run: trained.TrainedRun, solvers: Sequence[str], num_steps: Sequence[int]
) -> list[Cell]:
    """Return the cells of a run: the given solvers and steps, or those of its configuration."""
    rows = [{"name": name, "solver": name} for name in solvers]
    rows = rows or [dict(row) for row in run.config.report.rows]
    if num_steps:
        rows = [{**row, "num_steps": tuple(dict.fromkeys(num_steps))} for row in rows]
    return make_cells(rows, report_steps(run.config), guidance_scales=(0.0,))


def _teacher_jobs(workdir: str, run: trained.TrainedRun) -> list[_Job]:
    """Return the cells of a distilled run's teacher, drawn with the seeds of the run."""
    rows = run.config.report.get("teacher_rows")
    if not rows:
        return []
    try:
        teacher = trained.load_run(run.config.teacher)
        _check_same_teacher(workdir, run.config.teacher, teacher)
    except (ValueError, OSError) as error:
        print(f"The report leaves out the teacher: {error}")
        return []
    evaluator = RunEvaluator(run.config.teacher, teacher, run.config.report.num_seeds)
    cells = make_cells(rows, report_steps(run.config), guidance_scales=(0.0,))
    return [(evaluator, evaluator.resolve(cell)) for cell in cells]


def _check_same_teacher(workdir: str, path: str, teacher: trained.TrainedRun) -> None:
    """Raise ValueError if a teacher is not the one that a run was distilled from."""
    noted = files.read_json(to_path(workdir) / "teacher.json")["weights_sha256"]
    if models.fingerprint(teachers.network_params(teacher.config, teacher.params)) != noted:
        raise ValueError(
            f"{path} holds other weights than the teacher of {workdir}. If it was trained further, keep the "
            "teacher as it was, and train a copy of its folder."
        )


def _with_distinct_names(jobs: Sequence[_Job]) -> list[_Job]:
    """Put the folder before the names of rows that several runs have.

    Students for different numbers of calls share a row: each column of it is another student.
    """
    folders = collections.defaultdict(set)
    for evaluator, cell in jobs:
        place = cell.name, cell.num_steps if evaluator.num_calls else None
        folders[place].add(evaluator.workdir)
    repeated = {name for (name, _), names in folders.items() if len(names) > 1}
    return [
        (evaluator, dataclasses.replace(cell, name=f"{evaluator.workdir}: {cell.name}"))
        if cell.name in repeated else (evaluator, cell)
        for evaluator, cell in jobs
    ]  # fmt: skip


def _score(jobs: Sequence[_Job]) -> list[ReportRow]:
    """Draw and score each cell with its evaluator; the next cell compiles while this one samples."""
    rows = []
    with ThreadPoolExecutor(1) as pool, tqdm(total=len(jobs), desc="evaluating", unit="cell") as bar:
        samplers = pool.map(lambda job: job[0].compile(job[1]), jobs)
        for (evaluator, cell), draw in zip(jobs, samplers, strict=True):
            bar.set_postfix_str(f"{cell.name}, {cell.num_steps} steps")
            samples, scores = zip(*evaluator.rounds(draw), strict=True)
            nfe = solver_choices.num_calls(cell.solver, cell.num_steps)
            rows.append(ReportRow(cell.name, nfe, samples[0], evaluation.mean_and_std(scores)))
            bar.update()
    return rows


def _scores_to_json(scores: dict) -> dict:
    return {k: v and {"mean": round(v[0], 6), "std": round(v[1], 6)} for k, v in scores.items()}


def report_samples(path: str, reference: str, out: pathlib.Path) -> None:
    """Score samples in a file against a task's real data, print the table and write the report.

    Args:
      path: an .npz written by `experiments.sample --samples_out`.
      reference: name of the task.
      out: the report, a .json file.

    Raises:
      cli.UserError: if the file cannot be used, or `out` cannot be written.
    """
    with cli.report_user_errors():
        provenance.check_out(out)
        task = make_scored_task(reference)
        arrays = evaluation.npz_shapes(path)
        missing = {"samples", "labels"} - set(arrays)
        if missing:
            raise ValueError(
                f"{path} has no array {' or '.join(sorted(missing))}; its arrays are: "
                f"{', '.join(arrays) or 'none'}. Write it with experiments.sample --samples_out."
            )
        samples, labels = (files.read_array(path, name) for name in ("samples", "labels"))
        scores = evaluation.mean_and_std([task.score(samples, labels)])
    references = task.reference_rows()
    print(tables.report_table([ReportRow("samples", 0, samples, scores)], references, task.score_names))
    files.write_json(out, {
        "samples": path,
        "reference": reference,
        "num_samples": len(samples),
        "scores": {k: v and v[0] for k, v in scores.items()},
        "references": [{"name": name, **_scores_to_json(s)} for name, s in references],
    }, sort_keys=False)
    print(f"Wrote {out}.")
