"""Scores as text tables and as JSON."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.scoring.cells import Cell
from experiments.tasks.rows import ReportRow

_SHORT = {"inception_score": "IS", "fid": "FID", "sfid": "sFID", "kid": "KID"}
Result = tuple[Cell, Mapping[str, float]]


class Best(NamedTuple):
    """The best cells of one row at one number of steps.

    Attributes:
      row: name of the row.
      num_steps: number of steps.
      by_distance: cell with the smallest distance.
      by_precision: cell with the largest precision.
    """

    row: str
    num_steps: int
    by_distance: Result
    by_precision: Result


def scores_table(results: Sequence[Result]) -> str:
    """Format a line for each cell and a column for each score."""
    names = list(dict.fromkeys(name for _, scores in results for name in scores))
    lines = [["", "steps", "guidance", *(_SHORT.get(name, name) for name in names)]]
    for cell, scores in results:
        values = [_number(scores.get(name)) for name in names]
        lines.append([cell.name, str(cell.num_steps), f"{cell.guidance_scale:g}", *values])
    return aligned(lines)


def group_by_row(results: Sequence[Result]) -> dict[tuple[str, int], list[Result]]:
    """Return {(name of the row, number of steps): results}."""
    groups: dict[tuple[str, int], list[Result]] = {}
    for cell, scores in results:
        groups.setdefault((cell.name, cell.num_steps), []).append((cell, scores))
    return groups


def best_of(results: Sequence[Result], distance: str) -> list[Best]:
    """Find the guidance scales of the smallest distance and of the largest precision.

    Args:
      results: cells and their scores, which include `distance` and "precision".
      distance: name of the score to minimise, such as "fid".

    Returns:
      The best cells of each row and number of steps.
    """
    return [
        Best(
            *group,
            min(members, key=lambda result: result[1][distance]),
            max(members, key=lambda result: result[1]["precision"]),
        )
        for group, members in group_by_row(results).items()
    ]


def best_table(bests: Sequence[Best], distance: str, real_saturation: float | None) -> str:
    """Format the best cells as in the paper's tables 2 and 4.

    Args:
      bests: the best cells of each row and number of steps.
      distance: name of the score that `best_of` minimised.
      real_saturation: mean saturation of the real images, which is subtracted; None if it is not known.

    Returns:
      A line for each entry of `bests`: the best distance, the best precision, and recall and saturation at
      the scale of the best precision.
    """
    has_color = any("saturation" in best.by_precision[1] for best in bests)
    head = ["", "steps", f"best {_SHORT.get(distance, distance)}", "at", "best precision", "recall", "at"]
    lines = [head + (["saturation"] if has_color else [])]
    for best in bests:
        (closest, distances), (sharpest, scores) = best.by_distance, best.by_precision
        line = [
            best.row, str(best.num_steps), _number(distances[distance]), f"{closest.guidance_scale:g}",
            _number(scores["precision"]), _number(scores["recall"]), f"{sharpest.guidance_scale:g}",
        ]  # fmt: skip
        if has_color and real_saturation is None:
            line.append(_number(scores["saturation"]))
        elif has_color:
            line.append(f"{scores['saturation'] - real_saturation:+.3f}")
        lines.append(line)
    note = ""
    if has_color and real_saturation is not None:
        note = f"\nsaturation: difference to the mean of the real images, {real_saturation:.3f}\n"
    return aligned(lines) + note


def to_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    """Return cells and scores in the form of sweep.json and of reports."""
    return [{"cell": cell.to_json(), "scores": dict(scores)} for cell, scores in results]


def bests_to_json(bests: Sequence[Best]) -> list[dict[str, Any]]:
    """Return the best cells in the form of sweep.json."""
    return [
        {
            "row": best.row,
            "num_steps": best.num_steps,
            "by_distance": _scale_and_scores(best.by_distance),
            "by_precision": _scale_and_scores(best.by_precision),
        }
        for best in bests
    ]


def _scale_and_scores(result: Result) -> dict[str, float]:
    return {"guidance_scale": result[0].guidance_scale, **result[1]}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) >= 10 else f"{value:.3f}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Format lines of equal length in columns, the first aligned to the left and the others to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
    ) + "\n"


def report_table(
    rows: Sequence[ReportRow], references: Sequence[tuple[str, dict]], names: Sequence[str]
) -> str:
    """Format the report of runs: one block for each score, solvers in lines, NFE in columns.

    Args:
      rows: scores of the solvers.
      references: (name, scores) of lines that stand below the solvers in each block.
      names: names of the scores.
    """
    nfes = sorted({row.nfe for row in rows})
    solvers = list(dict.fromkeys(row.solver for row in rows))
    scores_of = {(row.solver, row.nfe): row.scores for row in rows}
    width = max(len(s) for s in [*solvers, *(name for name, _ in references), "solver"]) + 2
    lines = []
    for score in names:
        lines.append(f"\n{score.replace('_', ' ')} (mean ± std over seeds)")
        lines.append("NFE".ljust(width) + "".join(f"{nfe:>16}" for nfe in nfes))
        for solver in solvers:
            cells = (scores_of.get((solver, nfe), {}).get(score) for nfe in nfes)
            lines.append(solver.ljust(width) + "".join(f"{_mean_and_std(c):>16}" for c in cells))
        for name, scores in references:
            lines.append(name.ljust(width) + f"{_mean_and_std(scores.get(score)):>16}")
    return "\n".join(lines) + "\n"


def _mean_and_std(value: tuple[float, float] | None) -> str:
    return "" if value is None else f"{value[0]:.3f} ± {value[1]:.3f}"
