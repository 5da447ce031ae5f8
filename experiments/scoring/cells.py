"""The cells of a sweep: solvers, numbers of steps and guidance scales."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gmflow_jax import solvers
from gmflow_jax.guidance import METHODS, check_guidance_scale

SEED_RULE = "sample i of seed s: fold_in(key(s), i)"
# Scales of the paper's sweeps, section 4.2.
GUIDANCE_SCALES = (
    .02, .03, .04, .05, .06, .07, .08, .09, .11, .13, .16, .19, .23, .27, .33, .39, .47, .55, .65, .75,
)  # fmt: skip
CFG_SCALES = (1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8, 1.9, 2.1, 2.3, 2.6, 2.9, 3.3, 3.7, 4.3, 4.9, 5.7, 6.5)


@dataclasses.dataclass(frozen=True)
class Cell:
    """How samples of one cell are drawn.

    Attributes:
      name: Of its row in tables.
      num_substeps, spectrum: None leaves the choice to the evaluator.
      guidance: One of `guidance.METHODS`.
    """

    name: str
    solver: str
    num_steps: int
    guidance_scale: float = 0.0
    order: int = 2
    num_substeps: int | None = None
    guidance: str = "probabilistic"
    orthogonal: float = 1.0
    spectrum: bool | None = None

    def __post_init__(self):
        kinds = {
            "name": str, "solver": str, "num_steps": int, "guidance_scale": (int, float), "order": int,
            "num_substeps": (int, type(None)), "guidance": str, "orthogonal": (int, float),
            "spectrum": (bool, type(None)),
        }  # fmt: skip
        for field, kind in kinds.items():
            if not isinstance(getattr(self, field), kind):
                raise ValueError(f"{field} is {getattr(self, field)!r}, which is of the wrong kind.")
        if not 0 <= self.orthogonal <= 1:
            raise ValueError(f"orthogonal is a share from 0 to 1, but {self.orthogonal} was given.")
        check_guidance_scale(self.guidance_scale, self.guidance)
        solvers.by_name(self.solver, self.order, 1 if self.num_substeps is None else self.num_substeps)
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, but {self.num_steps} was given.")

    @property
    def guided(self) -> bool:
        return self.guidance_scale != METHODS[self.guidance]

    @property
    def key(self) -> str:
        """What tells the cell from the others of its sweep, fit for a file's name."""
        return f"{re.sub(r'[^A-Za-z0-9.]+', '_', self.name)}_steps{self.num_steps}_w{self.guidance_scale:g}"

    def with_defaults(self, **choices: Any) -> "Cell":
        """The cell with these choices where it leaves them open."""
        return dataclasses.replace(
            self, **{name: value for name, value in choices.items() if getattr(self, name) is None}
        )

    def to_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def select_rows(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> list[Mapping[str, Any]]:
    """Rows by their names, or by the first words of these, such as A0; all of them where none is given.

    Raises ValueError for a name that no row has.
    """
    chosen = []
    for name in names:
        found = [row for row in rows if row["name"] == name]
        found = found or [row for row in rows if row["name"].startswith(f"{name} ")]
        if not found:
            there = "; ".join(row["name"] for row in rows)
            raise ValueError(f"There is no row {name!r} in this sweep. Its rows are: {there}.")
        chosen += found
    return chosen or list(rows)


def make_cells(
    rows: Sequence[Mapping[str, Any]],
    num_steps: Sequence[int],
    guidance_scales: Sequence[float],
    cfg_scales: Sequence[float] = CFG_SCALES,
) -> list[Cell]:
    """Every row at every number of steps and every scale of its guidance, or at those that it names.

    A row holds fields of `Cell`, of which `num_steps` is a list, and may have a list `guidance_scales`.
    Raises ValueError for fields that there are not, values that cannot work, or two cells of one name.
    """
    cells = []
    for row in rows:
        options = dict(row)
        steps = options.pop("num_steps", num_steps)
        grid = cfg_scales if options.get("guidance") == "cfg" else guidance_scales
        grid = [options.pop("guidance_scale")] if "guidance_scale" in options else grid
        scales = options.pop("guidance_scales", grid)
        try:
            cells += [Cell(num_steps=n, guidance_scale=w, **options) for n in steps for w in scales]
        except TypeError as error:
            raise ValueError(f"The row {dict(row)} is no row of a sweep: {error}.") from error
    if not cells:
        raise ValueError("There is nothing to sweep: give rows, numbers of steps and guidance scales.")
    keys = [cell.key for cell in cells]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        raise ValueError(
            f"Two cells are both called {twice[0]}; give rows different names, and each number of steps and "
            "scale once."
        )
    return cells
