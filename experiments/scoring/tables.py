"""Scores as text."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from experiments.scoring.cells import Cell
from experiments.tasks.rows import ReportRow

_SHORT = {"inception_score": "IS", "fid": "FID", "sfid": "sFID", "kid": "KID"}
Result = tuple[Cell, Mapping[str, float]]


class Best(NamedTuple):
    """The best cells of one row at one number of steps."""

    row: str
    num_steps: int
    by_distance: Result
    by_precision: Result


def scores_table(results: Sequence[Result]) -> str:
    """A line for each cell, a column for each score."""
    names = list(dict.fromkeys(name for _, scores in results for name in scores))
    lines = [["", "steps", "guidance", *(_SHORT.get(name, name) for name in names)]]
    for cell, scores in results:
        values = [_number(scores.get(name)) for name in names]
        lines.append([cell.name, str(cell.num_steps), f"{cell.guidance_scale:g}", *values])
    return aligned(lines)


def best_of(results: Sequence[Result], distance: str) -> list[Best]:
    """For each row and number of steps the least distance and the largest precision, over guidance scales."""
    groups: dict[tuple[str, int], list[Result]] = {}
    for cell, scores in results:
        groups.setdefault((cell.name, cell.num_steps), []).append((cell, scores))
    return [
        Best(
            *group,
            min(members, key=lambda result: result[1][distance]),
            max(members, key=lambda result: result[1]["precision"]),
        )
        for group, members in groups.items()
    ]


def best_table(bests: Sequence[Best], distance: str, real_saturation: float | None) -> str:
    """The form of the paper's tables 2 and 4: best distance, best precision, and what is seen there.

    Saturation is relative to that of the real images, where that is known.
    """
    colour = any("saturation" in best.by_precision[1] for best in bests)
    head = ["", "steps", f"best {_SHORT.get(distance, distance)}", "at", "best precision", "recall", "at"]
    lines = [head + (["saturation"] if colour else [])]
    for best in bests:
        (near, nearest), (sharp, sharpest) = best.by_distance, best.by_precision
        line = [
            best.row, str(best.num_steps), _number(nearest[distance]), f"{near.guidance_scale:g}",
            _number(sharpest["precision"]), _number(sharpest["recall"]), f"{sharp.guidance_scale:g}",
        ]  # fmt: skip
        if colour and real_saturation is None:
            line.append(_number(sharpest["saturation"]))
        elif colour:
            line.append(f"{sharpest['saturation'] - real_saturation:+.3f}")
        lines.append(line)
    note = ""
    if colour:
        known = real_saturation is not None
        note = f"\nsaturation: less the real images' {real_saturation:.3f}\n" if known else ""
    return aligned(lines) + note


def to_json(results: Sequence[Result]) -> list[dict[str, Any]]:
    return [{"cell": cell.to_json(), "scores": dict(scores)} for cell, scores in results]


def bests_to_json(bests: Sequence[Best]) -> list[dict[str, Any]]:
    return [
        {
            "row": best.row,
            "num_steps": best.num_steps,
            "by_distance": _short(best.by_distance),
            "by_precision": _short(best.by_precision),
        }
        for best in bests
    ]


def _short(result: Result) -> dict[str, float]:
    return {"guidance_scale": result[0].guidance_scale, **result[1]}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}" if abs(value) >= 10 else f"{value:.3f}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in lines
    ) + "\n"


def report_table(
    rows: Sequence[ReportRow], references: Sequence[tuple[str, dict]], names: Sequence[str]
) -> str:
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
            lines.append(solver.ljust(width) + "".join(f"{_mean_and_std(c):>16}" for c in cells))
        for name, scores in references:
            lines.append(name.ljust(width) + f"{_mean_and_std(scores.get(score)):>16}")
    return "\n".join(lines) + "\n"


def _mean_and_std(value: tuple[float, float] | None) -> str:
    return "" if value is None else f"{value[0]:.3f} ± {value[1]:.3f}"
