"""Flags of the programs that score pictures, and the judge or the reference that they ask for."""

import functools
from typing import NamedTuple

from absl import flags
from tqdm.auto import tqdm

from experiments import bundles, runs
from experiments.scoring.judges import ImageJudge
from gmflow_jax import evaluation, interop, pipeline


class Options(NamedTuple):
    """What is judged, and by what."""

    checkpoint: str | None
    workdir: str | None
    autoencoder: str | None
    average: str
    ema_std: float | None
    inception: str | None
    reference: str | None
    reference_out: str | None
    batch_size: int | None
    metrics: tuple[str, ...] | None
    neighbours: str


def define_flags():
    """Defines the flags but for --workdir; returns `options(workdir)`, which reads them."""
    checkpoint = flags.DEFINE_string(
        "checkpoint", None, "Diffusers folder of a published network, see python -m experiments.download."
    )
    autoencoder = flags.DEFINE_string(
        "autoencoder", None, "Folder of the autoencoder that made the latents of the run in --workdir."
    )
    average = flags.DEFINE_string("average", "final", "Parameters of a run on latents: final or best.")
    ema_std = flags.DEFINE_float("ema_std", None, "Relative width of their average, where a run stored some.")
    inception = flags.DEFINE_string(
        "inception", None, "Inception's weights for pictures, .safetensors or .npz; see the README."
    )
    reference = flags.DEFINE_string(
        "reference",
        None,
        "What samples are compared with: for pictures an .npz (ADM's, the authors' statistics, uint8 images "
        "arr_0) or a folder of images; digits or checkerboard for --samples of these.",
    )
    reference_out = flags.DEFINE_string(
        "reference_out", None, "Where to keep the features of the reference, as .npz, for later runs."
    )
    batch_size = flags.DEFINE_integer(
        "batch_size", None, "Pictures drawn at a time; by default 16 on each device."
    )
    metrics = flags.DEFINE_list(
        "metrics",
        None,
        f"For pictures of {', '.join(evaluation.IMAGE_METRICS)}; by default all that the reference allows. "
        "For runs on digits or points: nll, the likelihood of training data instead of scores of samples.",
    )

    neighbours = flags.DEFINE_enum(
        "neighbours", "float32", ["float32", "float64", "float16", "float16_radii"],
        "How distances of precision and recall are rounded: float16 is ADM's rule, float16_radii that of the "
        "authors' figures.",
    )  # fmt: skip

    def options(workdir: str | None = None) -> Options:
        return Options(
            checkpoint.value, workdir, autoencoder.value, average.value, ema_std.value, inception.value,
            reference.value, reference_out.value, batch_size.value,
            None if metrics.value is None else tuple(metrics.value), neighbours.value,
        )  # fmt: skip

    return options


def draws_pictures(options: Options) -> bool:
    """Whether a checkpoint, or a run on latents, is judged; ValueError if neither it nor another run is."""
    if (options.checkpoint is None) == (options.workdir is None):
        raise ValueError("Give either --workdir, the folder of a run, or --checkpoint, a published network.")
    return options.checkpoint is not None or bundles.draws_latents(runs.read_config(options.workdir))


def make_image_judge(options: Options, num_samples: int, labels: str, seed: int) -> ImageJudge:
    """The judge of a checkpoint's or a run's pictures; ValueError if something is missing or does not fit."""
    check_measurable(options)
    evaluation.check_metrics(options.metrics or evaluation.IMAGE_METRICS, num_samples)
    if options.checkpoint is not None:
        pipe = pipeline.load(options.checkpoint)
    else:
        pipe = bundles.load_pipeline(
            options.workdir, options.average, options.autoencoder, options.ema_std
        )
    config, autoencoder = pipe.bundle.config, pipe.bundle.autoencoder
    if autoencoder is None:
        raise ValueError(
            f"{options.checkpoint} has no autoencoder (no folder vae/), so it draws no pictures; add one."
        )
    image_size = config.input_height_width[0] * autoencoder.config.downscale
    extractor, reference = load_measurement(options, image_size)
    return ImageJudge(
        pipe, extractor, reference, num_samples=num_samples, labels=labels, seed=seed,
        batch_size=options.batch_size, metrics=options.metrics, neighbours=options.neighbours,
    )  # fmt: skip


def check_measurable(options: Options) -> None:
    """ValueError if a flag is missing that scores of pictures need, before anything is loaded."""
    if not options.inception or not options.reference:
        raise ValueError(
            "Scores of pictures need --inception, the weights of FID's network, and --reference, an .npz of "
            "ADM or of the authors, or a folder of images; the README says where they come from."
        )
    if options.reference_out and not options.reference_out.endswith(".npz"):
        raise ValueError(f"--reference_out must end in .npz, but {options.reference_out!r} was given.")


def load_measurement(
    options: Options, image_size: int
) -> tuple[evaluation.FeatureExtractor, evaluation.Reference]:
    """Inception on all local devices, and the reference as it sees it."""
    extractor = evaluation.FeatureExtractor(interop.load_inception(options.inception))
    bar = functools.partial(tqdm, desc="reference", unit="batch")
    reference = evaluation.load_reference(options.reference, extractor, image_size, progress=bar)
    if options.reference_out:
        evaluation.save_reference(options.reference_out, reference, extractor)
    return extractor, reference
