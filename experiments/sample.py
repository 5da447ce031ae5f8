"""Sample from a trained run: a PNG grid, and the samples themselves if asked for.

  python -m experiments.sample --workdir=runs/digits --classes=3,seven --num_samples=64 --out=grid.png
"""

import pathlib

import jax
import numpy as np
from absl import flags
from tqdm.auto import tqdm

from experiments import cli, figures, runs
from gmflow_jax import flow
from gmflow_jax.guidance import check_guidance_scale

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.")
_SOLVER = flags.DEFINE_string("solver", "gm_ode", f"One of {', '.join(runs.SOLVERS)}.")
_ORDER = flags.DEFINE_integer("order", 2, "Order of gm_ode and gm_sde: 1 or 2.")
_STEPS = flags.DEFINE_integer("num_steps", 8, "Steps, each one network call.")
_SUBSTEPS = flags.DEFINE_integer(
    "num_substeps", None, "Midpoint sub-steps of gm_ode or gm_pc; max(16 / num_steps, 2) by default."
)
_GUIDANCE = flags.DEFINE_float("guidance_scale", 0.0, "Probabilistic guidance in [0, 1); 0 is off.")
_SPECTRUM = flags.DEFINE_bool(
    "spectrum", None, "Whether gm_sde draws with the run's power spectrum; by default if it has learned one."
)
_CLASSES = flags.DEFINE_string(
    "classes", None, "Comma-separated ids or names, used in turn; by default all classes in turn."
)
_NUM = flags.DEFINE_integer("num_samples", 64, "How many samples.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed: the same seed gives the same samples.")
_OUT = flags.DEFINE_string("out", "grid.png", "Where the PNG grid goes.")
_SAMPLES_OUT = flags.DEFINE_string(
    "samples_out", None, "Where the samples go, as .npz with samples and labels; by default nowhere."
)


def main() -> None:
    with cli.user_input():
        if _WORKDIR.value is None:
            raise ValueError("--workdir is needed: the folder of a run of python -m experiments.train.")
        _check_flags()
        run = runs.load_run(_WORKDIR.value)
        spectrum = run.spectrum(_SOLVER.value, _SPECTRUM.value)
        solver = runs.make_solver(
            _SOLVER.value, _STEPS.value, _ORDER.value, _SUBSTEPS.value, spectrum=spectrum
        )
        labels = _labels(_CLASSES.value, run.task.class_names, _NUM.value)
    sampler = run.sampler(solver, flow.time_grid(_STEPS.value), len(labels), _GUIDANCE.value)
    samples = sampler(
        jax.random.key(_SEED.value), labels, lambda batches: tqdm(batches, desc="sampling", unit="batch")
    )
    if _SAMPLES_OUT.value:
        path = pathlib.Path(_SAMPLES_OUT.value)
        temporary = path.with_name(path.name + ".tmp.npz")
        np.savez(temporary, samples=samples, labels=labels)
        temporary.replace(path)
        print(f"Wrote {len(samples)} samples to {path}.")
    if run.task.is_image:
        figures.image_grid(_OUT.value, samples)
    else:
        figures.histogram_grid(_OUT.value, [_SOLVER.value], [_STEPS.value], [[samples]], [[None]])
    print(f"Wrote the picture to {_OUT.value}.")


def _check_flags() -> None:
    check_guidance_scale(_GUIDANCE.value)
    for name, value in (("num_steps", _STEPS.value), ("num_samples", _NUM.value)):
        if value < 1:
            raise ValueError(f"--{name} must be at least 1, but {value} was given.")
    if _SUBSTEPS.value is not None and _SOLVER.value not in ("gm_ode", "gm_pc"):
        raise ValueError(f"--num_substeps is for gm_ode and gm_pc; {_SOLVER.value} has none. Leave it out.")
    if not _OUT.value.lower().endswith(".png"):
        raise ValueError(f"--out must end in .png, but {_OUT.value!r} was given.")
    if _SAMPLES_OUT.value and not _SAMPLES_OUT.value.endswith(".npz"):
        raise ValueError(f"--samples_out must end in .npz, but {_SAMPLES_OUT.value!r} was given.")
    for path in filter(None, (_OUT.value, _SAMPLES_OUT.value)):
        if not pathlib.Path(path).absolute().parent.is_dir():
            raise ValueError(f"The folder of {path} does not exist. Make it, or write elsewhere.")


def _labels(classes: str | None, names: tuple[str, ...], num_samples: int) -> np.ndarray:
    """The label of each sample: the asked classes, by id or name, in turn."""
    if not names:
        if classes:
            raise ValueError("This run has no classes: leave --classes out.")
        return np.zeros(num_samples, np.int32)
    chosen = range(len(names)) if classes is None else [_class_id(c, names) for c in classes.split(",")]
    return np.resize(np.asarray(chosen, np.int32), num_samples)


def _class_id(text: str, names: tuple[str, ...]) -> int:
    text = text.strip()
    if text in names:
        return names.index(text)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    raise ValueError(
        f"There is no class {text!r}. Give ids 0 to {len(names) - 1} or names: {', '.join(names)}."
    )


if __name__ == "__main__":
    cli.run(main)
