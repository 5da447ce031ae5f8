"""The cells of a sweep: solvers, numbers of steps and guidance scales."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gmflow_jax import solvers
from gmflow_jax._arguments import check_number
from gmflow_jax.guidance import METHODS, USUAL_ORTHOGONAL, check_guidance_scale

SEED_RULE = "sample i of seed s: fold_in(key(s), i)"
# Scales of the paper's sweeps, section 4.2.
GUIDANCE_SCALES = (
    .02, .03, .04, .05, .06, .07, .08, .09, .11, .13, .16, .19, .23, .27, .33, .39, .47, .55, .65, .75,
)  # fmt: skip
CFG_SCALES = (1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.1, 2.3, 2.6, 2.9, 3.3, 3.7, 4.3, 4.9, 5.7, 6.5)


@dataclasses.dataclass(frozen=True)
class Cell:
    """One cell of a sweep: how its samples are drawn.

    Attributes:
      name: name of its row in tables.
      solver: one of `solvers.NAMES`.
      num_steps: number of steps of the solver.
      guidance_scale: scale of the guidance method.
      order: order of gm_ode and gm_sde, 1 or 2; None leaves the choice to the evaluator.
      num_substeps: sub-steps of gm_ode and gm_pc in each step; None leaves the choice to the evaluator.
      guidance: one of `guidance.METHODS`.
      orthogonal: how much of the guidance along the prediction is removed, from 0 to 1; None is 1 for
        probabilistic and 0 for classifier-free guidance.
      spectrum: whether gm_sde draws with the learned spectrum; None leaves the choice to the evaluator.
    """

    name: str
    solver: str
    num_steps: int
    guidance_scale: float = 0.0
    order: int | None = None
    num_substeps: int | None = None
    guidance: str = "probabilistic"
    orthogonal: float | None = None
    spectrum: bool | None = None

    def __post_init__(self):
        types = {
            "name": str, "solver": str, "num_steps": int, "guidance_scale": int | float, "order": int | None,
            "num_substeps": int | None, "guidance": str, "orthogonal": int | float | None,
            "spectrum": bool | None,
        }  # fmt: skip
        for field, expected in types.items():
            value = getattr(self, field)
            if not isinstance(value, expected):
                name = expected.__name__ if isinstance(expected, type) else str(expected)
                raise ValueError(f"{field} is {value!r}, but must be of type {name}.")
        check_guidance_scale(self.guidance_scale, self.guidance)
        if self.orthogonal is None:  # reports name what was used
            object.__setattr__(self, "orthogonal", USUAL_ORTHOGONAL[self.guidance])
        if not 0 <= self.orthogonal <= 1:
            raise ValueError(f"orthogonal must be between 0 and 1, but {self.orthogonal} was given.")
        check_number("guidance_scale", self.guidance_scale, "[0, inf)")
        order, num_substeps = (1 if n is None else n for n in (self.order, self.num_substeps))
        solvers.by_name(self.solver, order, num_substeps)
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, but {self.num_steps} was given.")

    @property
    def guided(self) -> bool:
        """Whether the guidance scale has an effect."""
        return self.guidance_scale != METHODS[self.guidance]

    @property
    def key(self) -> str:
        """Unique name of the cell in its sweep, also used as a file name."""
        return f"{re.sub(r'[^A-Za-z0-9.]+', '_', self.name)}_steps{self.num_steps}_w{self.guidance_scale:g}"

    def with_defaults(self, **choices: Any) -> "Cell":
        """Return the cell with `choices` for those of its fields that are None."""
        return dataclasses.replace(
            self, **{name: value for name, value in choices.items() if getattr(self, name) is None}
        )

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dict that `json` can write."""
        return dataclasses.asdict(self)


def check_report(config: Any) -> None:
    """Raise ValueError if the rows, steps, seeds or the shift of `config.report` cannot be used."""
    report, num_steps = config.report, report_steps(config)
    if report.num_seeds < 1:
        raise ValueError(f"report.num_seeds is {report.num_seeds}, but must be at least 1.")
    check_number("report.shift", report.get("shift", 1.0), "(0, inf)")
    try:
        make_cells(report.rows, num_steps, guidance_scales=(0.0,))
        if report.get("teacher_rows"):
            make_cells(report.teacher_rows, num_steps, guidance_scales=(0.0,))
    except ValueError as error:
        raise ValueError(f"The report cannot be made: {error}") from error
    if not num_steps and not all("num_steps" in row for row in report.rows):
        raise ValueError("report.num_steps is empty; give the numbers of steps of its rows, such as (4, 8).")


def report_steps(config: Any) -> Sequence[int]:
    """Return the numbers of steps of a report; those of a distilled run are the calls that it is made for."""
    return (config.num_calls,) if "num_calls" in config else config.report.num_steps


def select_rows(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Select rows by name, or by the first words of the name, such as A0; all rows if `names` is empty.

    Raises:
      ValueError: if no row has one of the names.
    """
    chosen = []
    for name in names:
        matches = [row for row in rows if row["name"] == name]
        matches = matches or [row for row in rows if row["name"].startswith(f"{name} ")]
        if not matches:
            known = "; ".join(row["name"] for row in rows)
            raise ValueError(f"There is no row {name!r} in this sweep. Its rows are: {known}.")
        chosen += matches
    return chosen or list(rows)


def make_cells(
    rows: Sequence[Mapping[str, Any]],
    num_steps: Sequence[int],
    guidance_scales: Sequence[float],
    cfg_scales: Sequence[float] = CFG_SCALES,
) -> list[Cell]:
    """Combine every row with every number of steps and every guidance scale.

    Args:
      rows: fields of `Cell`. A row may have its own grid: a list `num_steps`, and a list `guidance_scales`
        or a number `guidance_scale`.
      num_steps: numbers of steps of the other rows.
      guidance_scales: scales of the other rows with probabilistic guidance.
      cfg_scales: scales of the other rows with classifier-free guidance.

    Returns:
      The cells, row by row.

    Raises:
      ValueError: if a row has an unknown field or an invalid value, if there are no cells, or if two cells
        have the same key.
    """
    cells = []
    for row in rows:
        if not hasattr(row, "keys"):  # neither dict nor ConfigDict
            raise ValueError(f"A row is {row!r}, but must be a dict such as dict(name='AB2', solver='ab2').")
        options = dict(row)
        steps = options.pop("num_steps", num_steps)
        grid = cfg_scales if options.get("guidance") == "cfg" else guidance_scales
        grid = [options.pop("guidance_scale")] if "guidance_scale" in options else grid
        scales = options.pop("guidance_scales", grid)
        try:
            cells += [Cell(num_steps=n, guidance_scale=w, **options) for n in steps for w in scales]
        except TypeError as error:
            raise ValueError(f"The row {dict(row)} cannot be used in a sweep: {error}.") from error
    if not cells:
        raise ValueError("There is nothing to sweep: give rows, numbers of steps and guidance scales.")
    keys = [cell.key for cell in cells]
    repeated = sorted({key for key in keys if keys.count(key) > 1})
    if repeated:
        raise ValueError(
            f"Two cells are both called {repeated[0]}; give rows different names, and each number of steps "
            "and each scale only once."
        )
    return cells
