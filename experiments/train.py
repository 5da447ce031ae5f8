"""Train a run from a configuration, resume it, and report on it when it is done.

  python -m experiments.train --config=experiments/configs/digits.py --workdir=runs/digits
  python -m experiments.train --config=... --workdir=... --config.num_steps=100

The workdir receives config.json, checkpoints/, metrics.csv and TensorBoard events; the digits and the
checkerboard are reported on at the end: report.json, report.png and a printed table. The same command
again resumes an unfinished run, to the same numbers.

On several hosts start the same command on each, with the workdir on a shared disk; where neither TPU
metadata nor Slurm tell of the others, with --coordinator_address, --num_processes and --process_id.
"""

import pathlib

import jax
from absl import flags
from ml_collections import config_flags

from experiments.common import cli, cluster
from experiments.scoring.run_report import report
from experiments.training.fit import Outcome, fit_run

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, e.g. experiments/configs/digits.py.", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; made if it does not exist.")
_REPORT = flags.DEFINE_bool("report", True, "Whether to evaluate the run when it is done.")
_JOIN = cluster.define_flags()


def main() -> None:
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise cli.UserError(
            "--config and --workdir are needed, for example --config=experiments/configs/digits.py "
            "--workdir=runs/digits."
        )
    _JOIN()
    workdir = pathlib.Path(_WORKDIR.value)
    outcome = fit_run(_CONFIG.value, workdir)
    if outcome is Outcome.STOPPED or jax.process_index() > 0:
        return
    out = workdir / "report.json"
    if "report" in _CONFIG.value and jax.process_count() > 1:
        print(f"For its report run python -m experiments.evaluate --workdir={workdir} on one host.")
    elif "report" not in _CONFIG.value:
        print(
            f"Sample: python -m experiments.sample --workdir={workdir} --autoencoder=FOLDER. As a diffusers "
            f"folder: python -m experiments.export --workdir={workdir} --out=FOLDER."
        )
    elif outcome is Outcome.ALREADY_DONE and out.exists():
        print(f"Its report is {out}; python -m experiments.evaluate --workdir={workdir} makes it anew.")
    elif _REPORT.value:
        report([str(workdir)], out)


if __name__ == "__main__":
    cli.run(main)
