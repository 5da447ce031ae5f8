"""Evaluate trained runs, or a file of samples: a printed table, report.json, and a picture.

  python -m experiments.evaluate --workdir=runs/digits
  python -m experiments.evaluate --workdir=runs/digits --workdir=runs/digits_flow --out=joint.json
  python -m experiments.evaluate --workdir=runs/digits --solvers=gm_pc,gm_ode,ab2,unipc --num_steps=4,8,16
  python -m experiments.evaluate --samples=samples.npz --reference=digits --out=report.json
  python -m experiments.evaluate --metrics=nll --workdir=runs/digits --workdir=runs/digits_flow

Several workdirs of one task share a table and a picture. Every score is a mean over seeds, with its
standard deviation; the picture goes beside the report, with the ending .png.
With --metrics=nll nothing is sampled: the table is of time-averaged -log q(x_0 | x_t) on the training
data in bits/dim, see experiments/likelihood.py, and goes to nll_report.json.
"""

import pathlib

from absl import flags

from experiments import cli
from experiments.likelihood import report_nll
from experiments.report import report, report_samples
from experiments.tasks import SCORED
from gmflow_jax import solvers

_WORKDIRS = flags.DEFINE_multi_string(
    "workdir", [], "Folder of a trained run; repeat the flag for a joint table."
)
_SOLVERS = flags.DEFINE_list(
    "solvers", [], f"Solvers instead of the configuration's: {', '.join(solvers.NAMES)}."
)
_STEPS = flags.DEFINE_list("num_steps", [], "Numbers of steps instead of the configuration's.")
_METRICS = flags.DEFINE_enum(
    "metrics", "samples", ["samples", "nll"], "What to measure: samples, or the likelihood of training data."
)
_SAMPLES = flags.DEFINE_string("samples", None, "A .npz with samples and labels to score instead of runs.")
_REFERENCE = flags.DEFINE_string(
    "reference", "digits", f"What --samples are compared with: {' or '.join(SCORED)}."
)
_OUT = flags.DEFINE_string(
    "out", None, "The report, .json; by default in the first workdir, or the current folder for --samples."
)


def main() -> None:
    if bool(_WORKDIRS.value) == bool(_SAMPLES.value):
        raise cli.UserError("Give --workdir (once or more) or --samples, one of the two.")
    if _METRICS.value == "nll":
        if _SAMPLES.value:
            raise cli.UserError("A file of samples has no likelihood: give --workdir for --metrics=nll.")
        report_nll(_WORKDIRS.value, _OUT.value or pathlib.Path(_WORKDIRS.value[0]) / "nll_report.json")
        return
    if _SAMPLES.value:
        report_samples(_SAMPLES.value, _REFERENCE.value, pathlib.Path(_OUT.value or "report.json"))
        return
    name = "report.json" if len(_WORKDIRS.value) == 1 else "joint_report.json"
    if not all(n.isdecimal() for n in _STEPS.value):
        raise cli.UserError(f"--num_steps must be a list such as 1,2,4, but {_STEPS.value} was given.")
    out = _OUT.value or pathlib.Path(_WORKDIRS.value[0]) / name
    report(_WORKDIRS.value, out, _SOLVERS.value, [int(n) for n in _STEPS.value])


if __name__ == "__main__":
    cli.run(main)
