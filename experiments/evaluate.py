"""Evaluate runs, checkpoints, or a file of samples: a printed table, report.json, and a picture.

  python -m experiments.evaluate --workdir=runs/digits
  python -m experiments.evaluate --workdir=runs/digits --workdir=runs/digits_flow --out=joint.json
  python -m experiments.evaluate --workdir=runs/digits --solvers=gm_pc,gm_ode,ab2,unipc --num_steps=4,8,16
  python -m experiments.evaluate --samples=samples.npz --reference=digits --out=report.json
  python -m experiments.evaluate --metrics=nll --workdir=runs/digits --workdir=runs/digits_flow
  python -m experiments.evaluate --checkpoint=checkpoints/imagenet --num_steps=6 --guidance_scale=0.45
    --inception=inception.safetensors --reference=VIRTUAL_imagenet256_labeled.npz
  python -m experiments.evaluate --samples=images.npz --inception=... --reference=FOLDER_OF_IMAGES

Several workdirs of one task share a table and a picture. Every score is a mean over seeds, with its
standard deviation; the picture goes beside the report, with the ending .png.
With --metrics=nll nothing is sampled: the table is of time-averaged -log q(x_0 | x_t) on the training
data in bits/dim, see experiments/scoring/likelihood.py, and goes to nll_report.json.
Pictures, of a checkpoint, a run on latents (--workdir and --autoencoder) or a file or folder, are scored by
FID's Inception; the report says all that decides the numbers. On several hosts start the same command on
each: they draw together.
"""

import pathlib

import jax
from absl import flags

from experiments.common import cli, cluster
from experiments.common.provenance import check_out
from experiments.scoring import cells, options
from experiments.scoring.image_report import report_image_samples, report_images
from experiments.scoring.likelihood import report_nll
from experiments.scoring.run_report import report, report_samples
from experiments.tasks.make import SCORED
from gmflow_jax import evaluation, solvers

_WORKDIRS = flags.DEFINE_multi_string(
    "workdir", [], "Folder of a trained run; repeat the flag for a joint table."
)
_SOLVERS = flags.DEFINE_list(
    "solvers", [], f"Solvers instead of the configuration's: {', '.join(solvers.NAMES)}."
)
_STEPS = flags.DEFINE_list("num_steps", [], "Numbers of steps instead of the configuration's.")
_SAMPLES = flags.DEFINE_string(
    "samples", None, "An .npz with samples to score instead of runs, or for pictures a folder too."
)
_OUT = flags.DEFINE_string(
    "out", None, "The report, .json; by default in the first workdir, or the current folder without one."
)
_DRAWING = {
    "order": flags.DEFINE_integer("order", 2, "For pictures: order of gm_ode and gm_sde, 1 or 2."),
    "num_substeps": flags.DEFINE_integer(
        "num_substeps", None, "For pictures: sub-steps of gm_ode and gm_pc; by default the paper's."
    ),
    "guidance": flags.DEFINE_string("guidance", "probabilistic", "For pictures: probabilistic, or cfg."),
    "guidance_scale": flags.DEFINE_float(
        "guidance_scale", 0.45, "For pictures: probabilistic in [0, 1), 0 is off; cfg from 1, which is off."
    ),
    "orthogonal": flags.DEFINE_float(
        "orthogonal", 1.0, "For pictures: share of guidance along the prediction that is taken out, 0 to 1."
    ),
    "spectrum": flags.DEFINE_bool("spectrum", None, "For pictures: whether gm_sde draws by a spectrum."),
}
_NUM = flags.DEFINE_integer("num_samples", 50_000, "For pictures: how many are drawn.")
_LABELS = flags.DEFINE_enum(
    "labels", "random", evaluation.LABEL_RULES, "For pictures: classes by the authors' rule, or in turn."
)
_SEED = flags.DEFINE_integer("seed", 0, "For pictures: seed of all of them.")
_OPTIONS = options.define_flags()
_JOIN = cluster.define_flags()


def main() -> None:
    _JOIN()
    workdirs, samples = _WORKDIRS.value, _SAMPLES.value
    with cluster.fail_together():
        asked = _OPTIONS(workdirs[0] if workdirs else None)
        if sum(map(bool, (workdirs, samples, asked.checkpoint))) != 1:
            raise ValueError("Give --workdir (once or more), --checkpoint or --samples, one of the three.")
        if not all(n.isdecimal() for n in _STEPS.value):
            raise ValueError(f"--num_steps must be a list such as 1,2,4, but {_STEPS.value} was given.")
        likelihood = asked.metrics == ("nll",)
        if likelihood and not workdirs:
            raise ValueError("What is no run has no likelihood: give --workdir for --metrics=nll.")
        pictures = not samples and not likelihood and options.draws_images(asked)
        out = pathlib.Path(_OUT.value or pathlib.Path(workdirs[0] if workdirs else "") / _name(likelihood))
        if jax.process_index() == 0:
            check_out(out)
        if not pictures:
            _check_no_drawing(samples)
    if samples:
        _score_samples(samples, asked, out)
    elif pictures:
        _score_pictures(asked, out)
    elif likelihood:
        report_nll(workdirs, out)
    else:
        if asked.metrics is not None:
            raise cli.UserError("Of --metrics, runs on digits or points have nll only; leave the flag out.")
        report(workdirs, out, _SOLVERS.value, [int(n) for n in _STEPS.value])


def _name(likelihood: bool) -> str:
    if likelihood:
        return "nll_report.json"
    return "report.json" if len(_WORKDIRS.value) < 2 else "joint_report.json"


def _check_no_drawing(samples: str | None) -> None:
    """ValueError if flags are given that only drawing pictures knows, or several processes do the same."""
    for name in (*_DRAWING, "num_samples", "labels", "seed"):
        if flags.FLAGS[name].present:
            raise ValueError(f"--{name} is for pictures that are drawn, by a checkpoint or a run on latents.")
    if samples and (_SOLVERS.value or _STEPS.value):
        raise ValueError("--solvers and --num_steps have no effect on samples; leave them out.")
    if jax.process_count() > 1:
        raise ValueError("This takes one process: start it on one host, on a pod with --nodistributed.")


def _score_samples(samples: str, asked: options.Options, out: pathlib.Path) -> None:
    reference = asked.reference or "digits"
    if reference in SCORED:
        report_samples(samples, reference, out)
    else:
        report_image_samples(samples, asked, out)


def _score_pictures(asked: options.Options, out: pathlib.Path) -> None:
    with cluster.fail_together() as notes:
        if len(_WORKDIRS.value) > 1:
            raise ValueError("Runs on latents are evaluated one by one: give --workdir once.")
        drawing = {name: flag.value for name, flag in _DRAWING.items()}
        rows = [{"name": name, "solver": name, **drawing} for name in _SOLVERS.value or ["gm_ode"]]
        todo = cells.make_cells(rows, [int(n) for n in _STEPS.value] or [32], ())
        evaluator, todo = options.make_image_evaluator(asked, todo, _NUM.value, _LABELS.value, _SEED.value)
        notes["settings"] = evaluator.settings
    report_images(evaluator, todo, asked.origin, out)


if __name__ == "__main__":
    cli.run(main)
