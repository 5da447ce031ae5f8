"""Evaluate runs, checkpoints or samples: print a table, and write report.json and a picture.

  python -m experiments.evaluate --workdir=runs/digits
  python -m experiments.evaluate --workdir=runs/digits --workdir=runs/digits_flow --out=joint.json
  python -m experiments.evaluate --workdir=runs/digits --solvers=gm_pc,gm_ode,ab2,unipc --num_steps=4,8,16
  python -m experiments.evaluate --samples=samples.npz --reference=digits --out=report.json
  python -m experiments.evaluate --metrics=nll --workdir=runs/digits --workdir=runs/digits_flow
  python -m experiments.evaluate --checkpoint=checkpoints/imagenet --num_steps=6 --guidance_scale=0.04
    --inception=inception.safetensors --reference=VIRTUAL_imagenet256_labeled.npz
  python -m experiments.evaluate --samples=images.npz --inception=... --reference=FOLDER_OF_IMAGES

Runs on digits and points are scored by their configuration's solvers and seeds. The table shows means and
standard deviations over seeds. Several workdirs of one task share a table and a picture, which is written
next to the report with the ending .png.

With --metrics=nll, nothing is sampled. The table shows the time-averaged -log q(x_0 | x_t) of the training
data in bits/dim (see experiments/scoring/likelihood.py), and the report is nll_report.json.

Images are scored with FID's Inception. They come from a checkpoint, from a run on latents (--workdir and
--autoencoder), or from a file or folder (--samples). The report lists everything that determines the scores.
To draw images on several hosts, start the same command on each.
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
from gmflow_jax._files import to_path
from gmflow_jax.pipeline._usual import usual_options

_WORKDIRS = cli.define_paths(
    "workdir", "Folder of a run; repeat the flag to compare runs in one table."
)
_SOLVERS = flags.DEFINE_list(
    "solvers", [], f"Solvers to use instead of the configuration's: {', '.join(solvers.NAMES)}."
)
_STEPS = flags.DEFINE_list("num_steps", [], "Numbers of steps to use instead of the configuration's.")
_SAMPLES = cli.define_path("samples", None, "Samples to score: an .npz, or a folder of images.")
_OUT = cli.define_path(
    "out", None, "Path of the report, .json; by default in the first workdir, or else in the current folder."
)
_SAMPLING = {
    "order": flags.DEFINE_integer(
        "order",
        None,
        "For images: order of gm_ode and gm_sde, 1 or 2; by default 2, for a distilled network 1.",
    ),
    "num_substeps": flags.DEFINE_integer(
        "num_substeps",
        None,
        "For images: sub-steps of gm_ode and gm_pc in each step; by default as in the paper, "
        "max(128 // num_steps, 2), and 8 for 4 or 6 steps.",
    ),
    "guidance": flags.DEFINE_string(
        "guidance",
        "probabilistic",
        "For images: probabilistic, or cfg (classifier-free).",
    ),
    "guidance_scale": flags.DEFINE_float(
        "guidance_scale",
        None,
        "For images: scale in [0, 1) for probabilistic, where 0 is off; at least 1 for cfg, where 1 is off. "
        "By default 0.45, which is for precision; for FID take a low one, see experiments/scoring/README.md. "
        "For a distilled network it is off by default.",
    ),
    "orthogonal": flags.DEFINE_float(
        "orthogonal",
        None,
        "For images: share of the guidance along the prediction that is removed, 0 to 1; by default 1 for "
        "probabilistic, and 0 for cfg.",
    ),
    "spectrum": flags.DEFINE_bool(
        "spectrum", None, "For images: whether gm_sde uses a power spectrum; by default if there is one."
    ),
}
_NUM = flags.DEFINE_integer("num_samples", 50_000, "For images: number of images to draw.")
_LABELS = flags.DEFINE_enum(
    "labels", "random", evaluation.LABEL_RULES, "For images: random (the authors' rule) or balanced classes."
)
_SEED = flags.DEFINE_integer("seed", 0, "For images: the seed.")
_READ_OPTIONS = options.define_flags()
_JOIN_PROCESSES = cluster.define_flags()


def main() -> None:
    _JOIN_PROCESSES()
    workdirs, samples = _WORKDIRS.value, _SAMPLES.value
    with cluster.fail_together():
        flag_values = _READ_OPTIONS(workdirs[0] if workdirs else None)
        if sum(map(bool, (workdirs, samples, flag_values.checkpoint))) != 1:
            raise ValueError("Give exactly one of --workdir (once or more), --checkpoint and --samples.")
        if not all(n.isdecimal() for n in _STEPS.value):
            raise ValueError(f"--num_steps must be a list such as 1,2,4, but {_STEPS.value} was given.")
        likelihood = flag_values.metrics == ("nll",)
        if likelihood and not workdirs:
            raise ValueError("--metrics=nll needs a run, but --workdir is missing; give it.")
        draws_images = not samples and not likelihood and options.draws_images(flag_values)
        default_out = to_path(workdirs[0] if workdirs else "") / _default_name(likelihood)
        out = to_path(_OUT.value or default_out)
        if jax.process_index() == 0:
            check_out(out)
        if not draws_images:
            _check_flags_without_images(samples)
    if samples:
        _score_samples(samples, flag_values, out)
    elif draws_images:
        _score_images(flag_values, out)
    elif likelihood:
        report_nll(workdirs, out)
    else:
        if flag_values.metrics is not None:
            raise cli.UserError(
                "For runs on digits or points, --metrics can only be nll; leave it out for their scores."
            )
        report(workdirs, out, _SOLVERS.value, [int(n) for n in _STEPS.value])


def _default_name(likelihood: bool) -> str:
    if likelihood:
        return "nll_report.json"
    return "report.json" if len(_WORKDIRS.value) < 2 else "joint_report.json"


def _check_flags_without_images(samples: str | None) -> None:
    """Raise ValueError if there are flags for drawing images, or several processes."""
    for name in (*_SAMPLING, "num_samples", "labels", "seed"):
        if flags.FLAGS[name].present:
            raise ValueError(
                f"--{name} is for images that a checkpoint or a run on latents draws; leave it out."
            )
    if samples and (_SOLVERS.value or _STEPS.value):
        raise ValueError("--solvers and --num_steps have no effect on samples; leave them out.")
    if jax.process_count() > 1:
        raise ValueError(
            "Only the drawing of images can use several processes; start the command on one host, with "
            "--nodistributed on a pod."
        )


def _score_samples(samples: str, flag_values: options.Options, out: pathlib.Path) -> None:
    reference = flag_values.reference or "digits"
    if reference in SCORED:
        report_samples(samples, reference, out)
    else:
        report_image_samples(samples, flag_values, out)


def _score_images(flag_values: options.Options, out: pathlib.Path) -> None:
    with cluster.fail_together() as notes:
        if len(_WORKDIRS.value) > 1:
            raise ValueError("Only one run on latents can be evaluated at a time; give --workdir once.")
        sampling = {name: flag.value for name, flag in _SAMPLING.items()}
        usual = usual_options(options.num_calls(flag_values), guidance=sampling["guidance"])
        if sampling["guidance_scale"] is None:
            sampling["guidance_scale"] = usual.guidance_scale
        rows = [{"name": name, "solver": name, **sampling} for name in _SOLVERS.value or ["gm_ode"]]
        grid = cells.make_cells(rows, [int(n) for n in _STEPS.value] or [usual.num_steps], ())
        evaluator, grid = options.make_image_evaluator(
            flag_values, grid, _NUM.value, _LABELS.value, _SEED.value
        )
        notes["settings"] = evaluator.settings
    report_images(evaluator, grid, flag_values.origin, out)


if __name__ == "__main__":
    cli.run(main)
