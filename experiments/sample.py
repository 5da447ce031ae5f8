"""Sample from a trained run or a published checkpoint: a PNG grid, and what else is asked for.

  python -m experiments.sample --workdir=runs/digits --classes=3,seven --num_samples=64 --out=grid.png
  python -m experiments.sample --checkpoint=checkpoints/imagenet --classes=jay,magpie --out=birds.png
  python -m experiments.sample --workdir=runs/imagenet --autoencoder=checkpoints/imagenet --out=mine.png
"""

import pathlib
import re
import time

import jax
import numpy as np
from absl import flags
from tqdm.auto import tqdm

from experiments.common import cli, figures, files, solver_choices
from experiments.runs import bundles, folder, trained
from gmflow_jax import flow, pipeline, solvers
from gmflow_jax.guidance import check_guidance_scale

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a trained run.")
_CHECKPOINT = flags.DEFINE_string(
    "checkpoint", None, "Diffusers folder of a published network, see python -m experiments.download."
)
_AUTOENCODER = flags.DEFINE_string(
    "autoencoder", None, "Folder of the autoencoder that made the latents of the run in --workdir."
)
_AVERAGE = flags.DEFINE_string("average", "final", "Parameters of a run on latents: final or best.")
_EMA_STD = flags.DEFINE_float("ema_std", None, "Relative width of their average, where a run stored some.")
_SOLVER = flags.DEFINE_string("solver", "gm_ode", f"One of {', '.join(solvers.NAMES)}.")
_ORDER = flags.DEFINE_integer("order", 2, "Order of gm_ode and gm_sde: 1 or 2.")
_STEPS = flags.DEFINE_integer(
    "num_steps", None, "Steps, each one network call; 8 by default, 32 for a checkpoint."
)
_SUBSTEPS = flags.DEFINE_integer(
    "num_substeps",
    None,
    "Sub-steps of gm_ode or gm_pc. By default max(16 / num_steps, 2) of the midpoint rule; for a checkpoint "
    "the authors' 4 of Euler's.",
)
_GUIDANCE = flags.DEFINE_float(
    "guidance_scale",
    None,
    "Probabilistic guidance in [0, 1); 0 is off. 0 by default, 0.45 for a checkpoint.",
)
_SPECTRUM = flags.DEFINE_bool(
    "spectrum", None, "Whether gm_sde draws with a power spectrum; by default if one has been learned."
)
_CLASSES = flags.DEFINE_string(
    "classes", None, "Comma-separated ids or names, used in turn; by default all classes in turn."
)
_NUM = flags.DEFINE_integer("num_samples", None, "How many samples; 64 by default, 8 for a checkpoint.")
_BATCH = flags.DEFINE_integer(
    "batch_size", None, "Images of a checkpoint at a time; by default 16 on each device."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed: the same seed gives the same samples.")
_OUT = flags.DEFINE_string("out", "grid.png", "Where the PNG grid goes.")
_IMAGES_OUT = flags.DEFINE_string(
    "images_out", None, "Folder for one PNG of each image; by default, for a checkpoint, --out less .png."
)
_SAMPLES_OUT = flags.DEFINE_string(
    "samples_out",
    None,
    "Where the samples go, as .npz: samples and labels of a run, arr_0 (uint8 images) and labels of a "
    "checkpoint; by default nowhere.",
)


def main() -> None:
    with cli.report_user_errors():
        if (_WORKDIR.value is None) == (_CHECKPOINT.value is None):
            raise ValueError(
                "Give either --workdir, the folder of a run of python -m experiments.train, or --checkpoint, "
                "that of a published network."
            )
        _check_flags()
    if _draws_images():
        _sample_images()
    else:
        _sample_run()
    print(f"Wrote the picture to {_OUT.value}.")


def _sample_run() -> None:
    num_steps = _given(_STEPS, 8)
    with cli.report_user_errors():
        run = trained.load_run(_WORKDIR.value)
        spectrum = run.spectrum(_SOLVER.value, _SPECTRUM.value)
        solver = solver_choices.make_solver(
            _SOLVER.value, num_steps, _ORDER.value, _SUBSTEPS.value, spectrum=spectrum
        )
        labels = _labels(dict(enumerate(run.task.class_names)), len(run.task.class_names), 64)
        if _IMAGES_OUT.value and not run.task.is_image:
            raise ValueError("The samples of this run are points, not images: leave --images_out out.")
    scale = _given(_GUIDANCE, 0.0)
    sampler = run.sampler(solver, flow.time_grid(num_steps), len(labels), scale > 0)
    samples = sampler(
        jax.random.key(_SEED.value),
        labels,
        scale,
        lambda batches: tqdm(batches, desc="sampling", unit="batch"),
    )
    _save_samples(samples=samples, labels=labels)
    if run.task.is_image:
        _save_images(samples, labels, run.task.class_names, _images_folder())
    else:
        figures.histogram_grid(_OUT.value, [_SOLVER.value], [num_steps], [[samples]], [[None]])


def _draws_images() -> bool:
    """Whether a pipeline draws, which a run on latents becomes too."""
    if _CHECKPOINT.value is not None:
        return True
    with cli.report_user_errors():
        return bundles.draws_latents(folder.read_config(_WORKDIR.value))


def _sample_images() -> None:
    with cli.report_user_errors():
        if _CHECKPOINT.value is not None:
            pipe = pipeline.load(_CHECKPOINT.value)
        else:
            pipe = bundles.load_pipeline(
                _WORKDIR.value, _AVERAGE.value, _AUTOENCODER.value, _EMA_STD.value
            )
        num_classes = pipe.bundle.config.num_classes
        labels = _labels(pipe.id2label, num_classes, 8)
        start = time.perf_counter()
        images = pipe(
            labels.tolist(),
            num_steps=_given(_STEPS, 32),
            solver=_SOLVER.value,
            order=_ORDER.value,
            num_substeps=_given(_SUBSTEPS, 4),
            guidance_scale=_given(_GUIDANCE, 0.45),
            seed=_SEED.value,
            batch_size=_BATCH.value,
            spectrum=_SPECTRUM.value,
        )
    seconds = time.perf_counter() - start
    each = seconds / len(images)
    print(f"{len(images)} images in {seconds:.1f} s, {each:.2f} s an image, compiling included.")
    _save_samples(arr_0=images, labels=labels)
    names = [pipe.id2label.get(i, "").split(",")[0] for i in range(num_classes)]
    _save_images(images, labels, names, _images_folder())


def _given(flag: flags.FlagHolder, default):
    return default if flag.value is None else flag.value


def _images_folder() -> str | None:
    if not _draws_images():
        return _IMAGES_OUT.value
    return _IMAGES_OUT.value or _OUT.value[: -len(".png")]


def _check_flags() -> None:
    check_guidance_scale(_given(_GUIDANCE, 0.0))
    counts = {"num_steps": _STEPS, "num_samples": _NUM, "num_substeps": _SUBSTEPS, "batch_size": _BATCH}
    for name, flag in counts.items():
        if flag.value is not None and flag.value < 1:
            raise ValueError(f"--{name} must be at least 1, but {flag.value} was given.")
    if _SUBSTEPS.value is not None and _SOLVER.value not in ("gm_ode", "gm_pc"):
        raise ValueError(f"--num_substeps is for gm_ode and gm_pc; {_SOLVER.value} has none. Leave it out.")
    if _BATCH.value is not None and not _draws_images():
        raise ValueError("--batch_size is for networks of images; this run says its own. Leave it out.")
    if not _OUT.value.lower().endswith(".png"):
        raise ValueError(f"--out must end in .png, but {_OUT.value!r} was given.")
    if _SAMPLES_OUT.value and not _SAMPLES_OUT.value.endswith(".npz"):
        raise ValueError(f"--samples_out must end in .npz, but {_SAMPLES_OUT.value!r} was given.")
    if not 0 <= _SEED.value < 2**32:
        raise ValueError(f"--seed must be from 0 to 2**32 - 1, but {_SEED.value} was given.")
    for path in map(pathlib.Path, filter(None, (_OUT.value, _SAMPLES_OUT.value, _images_folder()))):
        if not path.absolute().parent.is_dir():
            raise ValueError(f"The folder of {path} does not exist. Make it, or write elsewhere.")
        if path.exists() and path.is_dir() == (path.suffix in (".png", ".npz")):
            kind = "folder" if path.is_dir() else "file"
            raise ValueError(f"{path} exists and is a {kind}, but another kind goes there; write elsewhere.")


def _labels(id2label: dict[int, str], num_classes: int, num_samples: int) -> np.ndarray:
    """The label of each sample: the asked classes, by id or name, in turn."""
    num_samples = _given(_NUM, num_samples)
    if not num_classes:
        if _CLASSES.value:
            raise ValueError("This run has no classes: leave --classes out.")
        return np.zeros(num_samples, np.int32)
    chosen = range(num_classes)
    if _CLASSES.value is not None:
        chosen = pipeline.label_ids(_CLASSES.value.split(","), id2label, num_classes)
    return np.resize(np.asarray(chosen, np.int32), num_samples)


def _save_samples(**arrays: np.ndarray) -> None:
    if not _SAMPLES_OUT.value:
        return
    path = pathlib.Path(_SAMPLES_OUT.value)
    files.write_arrays(path, **arrays)
    print(f"Wrote {len(arrays['labels'])} samples to {path}.")


def _save_images(images: np.ndarray, labels: np.ndarray, names, folder: str | None) -> None:
    """The grid, and if there is a folder one PNG of each image."""
    figures.image_grid(_OUT.value, images)
    if folder is None:
        return
    pathlib.Path(folder).mkdir(exist_ok=True)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
        name = re.sub(r"\W+", "_", f"_{names[label]}").rstrip("_") if len(names) else ""
        figures.single_image(f"{folder}/{i:05d}_{label}{name}.png", image)
    print(f"Wrote {len(images)} images to {folder}/.")


if __name__ == "__main__":
    cli.run(main)
