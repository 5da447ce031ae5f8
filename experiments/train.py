"""Train a run from a configuration, and evaluate it at the end.

  python -m experiments.train --config=experiments/configs/digits.py --workdir=runs/digits
  python -m experiments.train --config=... --workdir=... --config.num_steps=100

The workdir receives config.json, checkpoints/, metrics.csv and TensorBoard events. Runs on digits and the
checkerboard are evaluated at the end: a printed table, report.json and report.png. The same command resumes
an unfinished run, with the same numbers as without the interruption.

The workdir may be in a bucket, gs://BUCKET/FOLDER. On several hosts, start the same command on each, with the
workdir in a bucket or on a shared disk. If there is neither TPU metadata nor Slurm, give
--coordinator_address, --num_processes and --process_id.
"""

import jax
from absl import flags
from ml_collections import config_flags

from experiments.common import cli, cluster
from experiments.scoring.run_report import report
from experiments.training.fit import Outcome, fit_run
from gmflow_jax._files import to_path

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, for example experiments/configs/digits.py.", lock_config=True
)
_WORKDIR = cli.define_path("workdir", None, "Folder of the run, or a gs:// address; it is created.")
_REPORT = flags.DEFINE_bool("report", True, "Whether to evaluate the run at the end.")
_JOIN_PROCESSES = cluster.define_flags()


def main() -> None:
    if _CONFIG.value is None or _WORKDIR.value is None:
        raise cli.UserError(
            "--config and --workdir are needed, for example --config=experiments/configs/digits.py "
            "--workdir=runs/digits."
        )
    _JOIN_PROCESSES()
    with cluster.fail_together():
        workdir = to_path(_WORKDIR.value)
    outcome = fit_run(_CONFIG.value, workdir)
    if outcome is Outcome.STOPPED or jax.process_index() > 0:
        return
    out = workdir / "report.json"
    if "report" in _CONFIG.value and jax.process_count() > 1:
        print(f"To evaluate it, run python -m experiments.evaluate --workdir={workdir} on one host.")
    elif "report" not in _CONFIG.value:
        print(
            f"To sample: python -m experiments.sample --workdir={workdir} --autoencoder=FOLDER. To export a "
            f"diffusers folder: python -m experiments.export --workdir={workdir} --out=FOLDER."
        )
    elif outcome is Outcome.ALREADY_DONE and out.exists():
        print(f"Its report is {out}; to evaluate again: python -m experiments.evaluate --workdir={workdir}")
    elif _REPORT.value:
        report([str(workdir)], out)


if __name__ == "__main__":
    cli.run(main)
