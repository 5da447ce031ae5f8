"""Train a run from a configuration, resume it, and report on it when it is done.

  python -m experiments.train --config=experiments/configs/digits.py --workdir=runs/digits
  python -m experiments.train --config=... --workdir=... --config.num_steps=100

The workdir receives config.json, checkpoints/, metrics.csv, TensorBoard events, and at the end
report.json, report.png and a printed table. The same command again resumes an unfinished run.
"""

import pathlib

from absl import flags
from ml_collections import config_flags

from experiments import cli
from experiments.fit import fit_run
from experiments.report import report

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, e.g. experiments/configs/digits.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made if it does not exist.")
_REPORT = flags.DEFINE_bool("report", True, "Whether to evaluate the run when it is done.")


def main() -> None:
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise cli.UserError(
            "--config and --workdir are needed, for example --config=experiments/configs/digits.py "
            "--workdir=runs/digits."
        )
    workdir = pathlib.Path(_WORKDIR.value)
    already_finished = fit_run(_CONFIG.value, workdir)
    out = workdir / "report.json"
    if already_finished and out.exists():
        print(f"Its report is {out}; python -m experiments.evaluate --workdir={workdir} makes it anew.")
    elif _REPORT.value:
        report([str(workdir)], out)


if __name__ == "__main__":
    cli.run(main)
