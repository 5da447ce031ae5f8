"""Sample from a run or a published checkpoint: write a PNG grid, and optionally all samples.

  python -m experiments.sample --workdir=runs/digits --classes=3,seven --num_samples=64 --out=grid.png
  python -m experiments.sample --checkpoint=checkpoints/imagenet --classes=jay,magpie --out=birds.png
  python -m experiments.sample --workdir=runs/imagenet --autoencoder=checkpoints/imagenet --out=mine.png
  python -m experiments.sample --workdir=runs/digits --condition=images.npz --mask=lower --out=completed.png

In the flags below, "images" are the samples of a checkpoint or of a run on latents.

Runs on digits and points are sampled on a uniform time grid, without the shift that experiments.evaluate
applies (config.report.shift, 0.8 for digits).
"""

import re
import time
from collections.abc import Sequence

import jax
import numpy as np
from absl import flags
from tqdm.auto import tqdm

from experiments.common import cli, figures, files, solver_choices
from experiments.runs import bundles, completion, folder, trained
from gmflow_jax import flow, pipeline, solvers
from gmflow_jax._files import to_path, write_arrays
from gmflow_jax.guidance import check_guidance_scale
from gmflow_jax.pipeline._usual import warn_of_steps

_WORKDIR = cli.define_path("workdir", None, "Folder of a run.")
_CHECKPOINT = cli.define_path(
    "checkpoint", None, "Diffusers folder of a published network, see python -m experiments.download."
)
_AUTOENCODER = cli.define_path(
    "autoencoder", None, "Folder of the autoencoder that encoded the latents of the run in --workdir."
)
_AVERAGE = flags.DEFINE_string(
    "average", "final", "Which averaged parameters of a run on latents: final or best."
)
_EMA_STD = flags.DEFINE_float(
    "ema_std", None, "Relative width of a post-hoc average of a run on latents that stored them."
)
_SOLVER = flags.DEFINE_string("solver", "gm_ode", f"One of {', '.join(solvers.NAMES)}.")
_ORDER = flags.DEFINE_integer(
    "order", None, "Order of gm_ode and gm_sde: 1 or 2; by default 2, for a distilled network 1."
)
_STEPS = flags.DEFINE_integer(
    "num_steps",
    None,
    "Number of steps, each one network call; by default 8, for images 32, and for a distilled network the "
    "number of calls that it was made for.",
)
_SUBSTEPS = flags.DEFINE_integer(
    "num_substeps",
    None,
    "Sub-steps of gm_ode and gm_pc in each step; by default max(16 // num_steps, 2), for images 4, the "
    "authors' choice for 32 steps. For images in fewer steps give the paper's number: "
    "max(128 // num_steps, 2), and 8 for 4 or 6 steps.",
)
_GUIDANCE = flags.DEFINE_float(
    "guidance_scale",
    None,
    "Scale of probabilistic guidance in [0, 1), where 0 is off; by default 0, for images 0.45 unless the "
    "network is distilled.",
)
_SPECTRUM = flags.DEFINE_bool(
    "spectrum", None, "Whether gm_sde uses a power spectrum; by default if there is one."
)
_CLASSES = flags.DEFINE_string(
    "classes",
    None,
    "Comma-separated class ids or names, used in turn; by default all classes, for completions those of "
    "--condition. With --classes=none, digits are completed without a class.",
)
_READ_CONDITION = completion.define_flags()
_NUM = flags.DEFINE_integer("num_samples", None, "Number of samples; by default 64, for images 8.")
_BATCH = flags.DEFINE_integer(
    "batch_size", None, "Images drawn at a time; by default 16 on each device."
)
_SEED = flags.DEFINE_integer("seed", 0, "Seed: the same seed gives the same samples.")
_OUT = cli.define_path("out", "grid.png", "Path of the PNG grid.")
_IMAGES_OUT = cli.define_path(
    "images_out",
    None,
    "Folder for a PNG of each sample; by default none, for images the path --out without .png.",
)
_SAMPLES_OUT = cli.define_path(
    "samples_out",
    None,
    "Path of an .npz for the samples, by default none. Its arrays are samples and labels, for images arr_0 "
    "(uint8) and labels.",
)


def main() -> None:
    with cli.report_user_errors():
        if (_WORKDIR.value is None) == (_CHECKPOINT.value is None):
            raise ValueError(
                "Give either --workdir, the folder of a run of python -m experiments.train, or --checkpoint, "
                "the folder of a published network."
            )
        _check_flags()
    if _draws_images():
        _sample_images()
    else:
        _sample_run()
    print(f"Wrote the picture to {_OUT.value}.")


def _sample_run() -> None:
    with cli.report_user_errors():
        run = trained.load_run(_WORKDIR.value)
        num_steps = _value_or(_STEPS, run.num_calls or 8)
        warn_of_steps(run.num_calls, num_steps)
        spectrum = run.spectrum(_SOLVER.value, _SPECTRUM.value)
        given = {"order": _ORDER.value, "num_substeps": _SUBSTEPS.value}
        options = run.usual_options(num_steps) | {k: v for k, v in given.items() if v is not None}
        solver = solver_choices.make_solver(
            _SOLVER.value, num_steps, shift=run.shift, spectrum=spectrum,
            integrator=run.integrator, **options,
        )
        scale, given, known = _value_or(_GUIDANCE, 0.0), None, None
        request = _READ_CONDITION()
        for_images = {"images_out": _IMAGES_OUT.value, "condition": request, "guidance_scale": scale}
        for name, value in for_images.items():
            if value and not run.task.is_image:
                raise ValueError(f"The samples of this run are points without classes: leave --{name} out.")
        names = run.task.class_names
        if request is None:
            labels = shown = _choose_labels(dict(enumerate(names)), len(names), 64)
        else:
            given = request.read(run.task.image_size, len(names))
            num_samples = _value_or(_NUM, len(given.images))
            shown = given.classes_of(num_samples, _chosen_classes(dict(enumerate(names)), len(names)))
            labels = shown
            if shown is None or _CLASSES.value == "none":
                labels = completion.labels_without_class(run, num_samples, scale)
            known = given.known(run.task, num_samples)
    sampler = run.sampler(solver, flow.time_grid(num_steps, run.shift), len(labels), scale > 0, known)
    samples = sampler(
        jax.random.key(_SEED.value),
        labels,
        scale,
        lambda batches: tqdm(batches, desc="sampling", unit="batch"),
    )
    _save_samples(samples, shown, "samples")
    if run.task.is_image:
        _save_images(samples, shown, names, _images_folder(), given)
    else:
        figures.histogram_grid(_OUT.value, [_SOLVER.value], [num_steps], [[samples]], [[None]])
    if given is not None:
        print(given.scores(run.task, samples, shown))


def _draws_images() -> bool:
    """Return whether a pipeline draws the samples: those of a checkpoint or of a run on latents."""
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
        num_classes, request, given, draw = pipe.bundle.config.num_classes, _READ_CONDITION(), None, pipe
        if request is None:
            labels = _choose_labels(pipe.id2label, num_classes, 8)
        else:
            given = request.read_colored(pipe)
            num_samples = _value_or(_NUM, len(given.images))
            labels = given.classes_of(num_samples, _chosen_classes(pipe.id2label, num_classes))
            if labels is None and num_classes:
                raise ValueError("The file in --condition has no labels: give --classes, or add them.")
            draw = given.editor(pipe, num_samples)
        start = time.perf_counter()
        images = draw(
            labels=labels.tolist(),
            num_steps=_STEPS.value,
            solver=_SOLVER.value,
            order=_ORDER.value,
            num_substeps=_SUBSTEPS.value,
            guidance_scale=_GUIDANCE.value,
            seed=_SEED.value,
            batch_size=_BATCH.value,
            spectrum=_SPECTRUM.value,
        )
    seconds = time.perf_counter() - start
    each = seconds / len(images)
    print(f"{len(images)} images in {seconds:.1f} s, {each:.2f} s an image, including compilation.")
    _save_samples(images, labels, "arr_0")
    names = [pipe.id2label.get(i, "").split(",")[0] for i in range(num_classes)]
    _save_images(images, labels, names, _images_folder(), given)


def _value_or(flag: flags.FlagHolder, default):
    """Return the value of a flag, or a default if the flag was not given."""
    return default if flag.value is None else flag.value


def _images_folder() -> str | None:
    if not _draws_images():
        return _IMAGES_OUT.value
    return _IMAGES_OUT.value or _OUT.value[: -len(".png")]


def _check_flags() -> None:
    request = _READ_CONDITION()
    if request is not None:
        request.check_solver(_SOLVER.value)
    if _CLASSES.value == "none" and (request is None or _draws_images()):
        raise ValueError(
            "--classes=none is for completions of runs on digits, with --workdir and --condition: give "
            "classes, or leave --classes out."
        )
    check_guidance_scale(_value_or(_GUIDANCE, 0.0))
    counts = {"num_steps": _STEPS, "num_samples": _NUM, "num_substeps": _SUBSTEPS, "batch_size": _BATCH}
    for name, flag in counts.items():
        if flag.value is not None and flag.value < 1:
            raise ValueError(f"--{name} must be at least 1, but {flag.value} was given.")
    if _SUBSTEPS.value is not None and _SOLVER.value not in ("gm_ode", "gm_pc"):
        raise ValueError(
            f"--num_substeps is for gm_ode and gm_pc; {_SOLVER.value} has no sub-steps. Leave it out."
        )
    for flag in (_AUTOENCODER, _AVERAGE, _EMA_STD):
        if flag.present and (_CHECKPOINT.value is not None or not _draws_images()):
            raise ValueError(f"--{flag.name} is for runs on latents; leave it out.")
    if _BATCH.value is not None and not _draws_images():
        raise ValueError("--batch_size is for images; the batch size of this run is fixed. Leave it out.")
    if not _OUT.value.lower().endswith(".png"):
        raise ValueError(f"--out must end in .png, but {_OUT.value!r} was given.")
    if _SAMPLES_OUT.value and not _SAMPLES_OUT.value.endswith(".npz"):
        raise ValueError(f"--samples_out must end in .npz, but {_SAMPLES_OUT.value!r} was given.")
    if not 0 <= _SEED.value < 2**32:
        raise ValueError(f"--seed must be from 0 to 2**32 - 1, but {_SEED.value} was given.")
    for given, needed in ((_OUT.value, "file"), (_SAMPLES_OUT.value, "file"), (_images_folder(), "folder")):
        if given:
            files.check_output(given, needed)


def _choose_labels(id2label: dict[int, str], num_classes: int, default_num: int) -> np.ndarray:
    """Return the label of each sample: the classes of --classes in turn, by default all."""
    chosen = _chosen_classes(id2label, num_classes)
    if chosen is None:
        chosen = range(max(num_classes, 1))  # without classes, all are 0
    return np.resize(np.asarray(chosen, np.int32), _value_or(_NUM, default_num))


def _chosen_classes(id2label: dict[int, str], num_classes: int) -> list[int] | None:
    """Return the ids of --classes; None if it gives none."""
    if _CLASSES.value in (None, "none"):
        return None
    if not num_classes:
        raise ValueError("This run has no classes: leave --classes out.")
    return pipeline.label_ids(_CLASSES.value.split(","), id2label, num_classes)


def _save_samples(samples: np.ndarray, labels: np.ndarray | None, name: str) -> None:
    if not _SAMPLES_OUT.value:
        return
    path = to_path(_SAMPLES_OUT.value)
    write_arrays(path, **{name: samples}, **({} if labels is None else {"labels": labels}))
    print(f"Wrote {len(samples)} samples to {path}.")


def _save_images(
    images: np.ndarray,
    labels: np.ndarray | None,
    names: Sequence[str],
    images_folder: str | None,
    given: completion.Given | None = None,
) -> None:
    """Write the grid, for completions beside the given images, and if there is a folder, each image."""
    if given is None:
        figures.image_grid(_OUT.value, images)
    else:
        given.draw(_OUT.value, images)
    if images_folder is None:
        return
    to_path(images_folder).mkdir(exist_ok=True)
    for i, image in enumerate(images):
        name = ""
        if labels is not None:
            words = names[labels[i]] if len(names) else ""
            name = f"_{labels[i]}" + re.sub(r"\W+", "_", f"_{words}").rstrip("_")
        figures.single_image(f"{images_folder}/{i:05d}{name}.png", image)
    print(f"Wrote {len(images)} images to {images_folder}/.")


if __name__ == "__main__":
    cli.run(main)
