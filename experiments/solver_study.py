"""Compare all solvers on exact problems and on the checkerboard, and test the paper's statements.

  python -m experiments.solver_study --out=study
  python -m experiments.solver_study --out=/tmp/study --quick

Writes study.md (all tables), study.csv (one number a line), error curves and histogram grids (PNG), and the
trained networks in runs/, which later calls with the same --out use again. All seeds are fixed.
"""

import contextlib
import pathlib
import time
from collections.abc import Sequence

from absl import flags
from tqdm.auto import tqdm

from experiments.common import cli, files, lock
from experiments.study import board, exact, substeps, tables
from experiments.study.base import QUICK, Settings, Study
from experiments.study.contenders import Contender, all_contenders
from gmflow_jax._files import check_writable, to_path

_OUT = cli.define_path("out", None, "Folder of the results; it is created.")
_TRAINING_STEPS = flags.DEFINE_integer(
    "checkerboard_steps",
    None,
    f"Training steps of each network; {Settings().num_training_steps:,} by default.",
)
_SOLVERS = flags.DEFINE_multi_string(
    "solver", [], "Solver to compare, by its name in the tables; repeat the flag for more. By default all."
)
_QUICK = flags.DEFINE_bool("quick", False, "Use few samples, network calls and training steps, for a trial.")

PARTS = (exact, substeps, board)  # modules with units(settings, contenders) and run(study) -> Markdown


def main() -> None:
    with cli.report_user_errors():
        settings, contenders, out = _settings(), _contenders(), _folder()
    with contextlib.ExitStack() as stack:
        with cli.report_user_errors():
            stack.enter_context(lock.hold(out, "--out"))
        _run_study(settings, contenders, out)


def _run_study(settings: Settings, contenders: Sequence[Contender], out: pathlib.Path) -> None:
    sections, seconds = [_TITLE], {}
    total = sum(part.units(settings, contenders) for part in PARTS)
    with tqdm(total=total, desc="study", bar_format=_BAR) as bar:
        study = Study(out, settings, contenders, bar)
        for part in PARTS:
            start = time.perf_counter()
            sections.append(part.run(study))
            seconds[part.PART] = time.perf_counter() - start
    files.write_text(out / "study.csv", tables.to_csv(study.records))
    files.write_text(out / "study.md", "\n\n".join(sections) + "\n")
    print("; ".join(f"{name}: {s:.0f} s" for name, s in seconds.items()))
    print(f"Wrote {out / 'study.md'}, {out / 'study.csv'} and the figures beside them.")


def _settings() -> Settings:
    settings = QUICK if _QUICK.value else Settings()
    steps = _TRAINING_STEPS.value
    if steps is None:
        return settings
    if steps < 1:
        raise ValueError(f"--checkerboard_steps must be at least 1, but {steps} was given.")
    return settings._replace(num_training_steps=steps)


def _contenders() -> list[Contender]:
    by_name = {contender.name: contender for contender in all_contenders()}
    for name in _SOLVERS.value:
        if name not in by_name:
            raise ValueError(f"There is no solver {name!r} in the study. Choose from: {'; '.join(by_name)}.")
    return [c for name, c in by_name.items() if name in _SOLVERS.value or not _SOLVERS.value]


def _folder() -> pathlib.Path:
    if _OUT.value is None:
        raise ValueError("--out is needed, the folder of the results; for example --out=study.")
    out = to_path(_OUT.value)
    check_writable(out)
    out.mkdir(parents=True, exist_ok=True)
    return out


_TITLE = """# Solver study

Made by `python -m experiments.solver_study`. Solvers are in rows, network calls (NFE) in columns; all \
numbers are also in study.csv."""
_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining}{postfix}"

if __name__ == "__main__":
    cli.run(main)
