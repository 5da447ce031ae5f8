"""Flags of the programs that score images, and the evaluator that they select."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from absl import flags

from experiments.common import cli
from experiments.runs import bundles, folder
from experiments.scoring import measure
from experiments.scoring.cells import Cell
from experiments.scoring.image_evaluator import ImageEvaluator
from gmflow_jax import evaluation, interop, pipeline

# absl lists flags that are defined here in the --help of the program that calls `define_flags`.
flags.disclaim_key_flags()

RUN_FLAGS = ("autoencoder", "average", "ema_std")  # only for runs on latents
_IMAGE_FLAGS = (
    "inception", "reference", "reference_out", "exif_orientation", "batch_size", "neighbours", *RUN_FLAGS,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
    """The values of the flags, by name; `given` has the names of those on the command line."""

    checkpoint: str | None
    workdir: str | None
    autoencoder: str | None
    average: str
    ema_std: float | None
    inception: str | None
    reference: str | None
    reference_out: str | None
    exif_orientation: bool | None
    batch_size: int | None
    metrics: tuple[str, ...] | None
    neighbours: str
    given: frozenset[str]

    @property
    def origin(self) -> dict[str, str]:
        """Paths and choices of the network and of the files that measure it, for reports."""
        names = ("checkpoint", "workdir", "autoencoder", "average", "ema_std", "inception", "reference")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def refuse(self, names: Sequence[str], why: str) -> None:
        """Raise ValueError if one of the flags `names` was given; `why` is a sentence with its full stop."""
        refused = [f"--{name}" for name in names if name in self.given]
        if refused:
            pronoun = "it" if len(refused) == 1 else "them"
            raise ValueError(f"{' and '.join(refused)} cannot be used here: {why} Leave {pronoun} out.")


def define_flags() -> Callable[[str | None], Options]:
    """Define the flags except --workdir; return options(workdir), which reads them."""
    holders = _define_network_flags() | _define_measurement_flags()

    def options(workdir: str | None = None) -> Options:
        values = {name: holder.value for name, holder in holders.items()}
        values["metrics"] = tuple(values["metrics"]) if values["metrics"] else None
        given = frozenset(name for name, holder in holders.items() if holder.present)
        return Options(workdir=workdir, given=given, **values)

    return options


def _define_network_flags() -> dict[str, flags.FlagHolder]:
    return {
        "checkpoint": cli.define_path(
            "checkpoint", None, "Diffusers folder of a published network, see experiments.download."
        ),
        "autoencoder": cli.define_path(
            "autoencoder", None, "Folder of the autoencoder that encoded the latents of the run in --workdir."
        ),
        "average": flags.DEFINE_string(
            "average", "final", "Which averaged parameters of a run on latents: final or best."
        ),
        "ema_std": flags.DEFINE_float(
            "ema_std", None, "Relative width of a post-hoc average of a run on latents that stored them."
        ),
        "batch_size": flags.DEFINE_integer(
            "batch_size", None, "Images drawn at a time; by default 16 on each device."
        ),
    }  # fmt: skip


def _define_measurement_flags() -> dict[str, flags.FlagHolder]:
    return {
        "inception": cli.define_path(
            "inception",
            None,
            "Inception's weights to score images, .safetensors or .npz; see experiments/scoring/README.md.",
        ),
        "reference": cli.define_path(
            "reference",
            None,
            "The data that samples are compared with: for images an .npz (ADM's, the authors' statistics, or "
            "uint8 images in arr_0) or a folder of images; for other --samples digits or checkerboard.",
        ),
        "reference_out": cli.define_path(
            "reference_out", None, "An .npz for the features of the reference, to use as --reference later."
        ),
        "exif_orientation": flags.DEFINE_bool(
            "exif_orientation",
            None,
            "Whether images of a folder are turned upright by their EXIF orientation, which photographs need "
            "and ImageNet's usual recipe ignores; by default as for the latents of the run, otherwise not.",
        ),
        "metrics": flags.DEFINE_list(
            "metrics",
            None,
            f"For images, some of {', '.join(evaluation.IMAGE_METRICS)}; by default all that the reference "
            f"allows, in a sweep {', '.join(measure.SWEPT_METRICS)}. Or nll, the likelihood of a run's "
            "training data.",
        ),
        "neighbours": flags.DEFINE_enum(
            "neighbours", "float32", ["float32", "float64", "float16", "float16_radii"],
            "Rounding of the distances for precision and recall: float16 is ADM's rule, float16_radii the "
            "rule of the authors' figures.",
        ),
    }  # fmt: skip


def num_calls(options: Options) -> int | None:
    """Return the number of calls that the network of the flags was distilled for; None for other networks."""
    if options.checkpoint is None:
        return folder.read_config(options.workdir).get("num_calls")
    return interop.read_num_calls(options.checkpoint)


def draws_images(options: Options) -> bool:
    """Return whether the flags select a network of images: a checkpoint, or a run on latents.

    Raises:
      ValueError: if not exactly one of --workdir and --checkpoint is given, or another flag does not fit.
    """
    if (options.checkpoint is None) == (options.workdir is None):
        raise ValueError("Give either --workdir, the folder of a run, or --checkpoint, a published network.")
    if options.checkpoint is not None:
        options.refuse(RUN_FLAGS, "a checkpoint contains its own networks; these flags are for --workdir.")
        return True
    if bundles.draws_latents(folder.read_config(options.workdir)):
        return True
    options.refuse(_IMAGE_FLAGS, "the run in --workdir does not generate images that Inception can score.")
    return False


def make_image_evaluator(
    options: Options,
    cells: Sequence[Cell],
    num_samples: int,
    labels: str,
    seed: int,
    needed: Sequence[str] = (),
    defaults: Sequence[str] = evaluation.IMAGE_METRICS,
) -> tuple[ImageEvaluator, list[Cell]]:
    """Load the network of a checkpoint or of a run, and prepare the measurement of its images.

    The parts that take longest to load come last, so that most errors are reported early.

    Args:
      options: the flags.
      cells: the cells to draw.
      num_samples: number of images of each cell.
      labels: a rule of `evaluation.evaluation_labels`.
      seed: seed of all images.
      needed: metrics that cannot be left out.
      defaults: metrics that are measured if the flags name none, as far as the reference allows.

    Returns:
      The evaluator, and the cells with defaults for their open choices.

    Raises:
      ValueError: if something is missing or does not fit.
    """
    measure.check_files(options.inception, options.reference, options.reference_out)
    metrics = options.metrics or defaults
    evaluation.check_metrics(metrics, num_samples)
    _check_needed(metrics, needed, "--metrics leaves out", "add them")
    pipe = _load_pipeline(options)
    image_size = pipe.bundle.config.input_height_width[0] * pipe.bundle.autoencoder.config.downscale
    load = functools.partial(load_measurement, options, image_size, num_samples, defaults)
    evaluator = ImageEvaluator(pipe, load, num_samples, labels, seed, options.batch_size)
    cells = [evaluator.resolve(cell) for cell in cells]
    lacking = f"{options.reference} has no images or features for"
    _check_needed(evaluator.measurement.metrics, needed, lacking, "give another --reference")
    return evaluator, cells


def _load_pipeline(options: Options) -> pipeline.Pipeline:
    """Load the pipeline of a checkpoint or of a run, which must have an autoencoder."""
    if options.checkpoint is None:
        return bundles.load_pipeline(
            options.workdir, options.average, options.autoencoder, options.ema_std
        )
    pipe = pipeline.load(options.checkpoint)
    if pipe.bundle.autoencoder is None:
        raise ValueError(
            f"{options.checkpoint} has no autoencoder (no folder vae/), so it cannot generate images; "
            "add one."
        )
    return pipe


def load_measurement(
    options: Options,
    image_size: int,
    num_samples: int,
    defaults: Sequence[str] = evaluation.IMAGE_METRICS,
) -> measure.Measurement:
    """Load Inception and the reference that the flags name, see `measure.load`.

    Args:
      options: the flags.
      image_size: size to which the images of a folder are cropped.
      num_samples: number of images that will be scored.
      defaults: metrics if the flags name none.

    Returns:
      The measurement.
    """
    return measure.load(
        options.inception, options.reference, image_size, num_samples, options.metrics, defaults,
        options.neighbours, options.reference_out, exif_orientation(options),
    )  # fmt: skip


def exif_orientation(options: Options) -> bool:
    """Return whether images of a folder are turned upright: the flag, or else as for the run's latents."""
    if options.exif_orientation is not None:
        return options.exif_orientation
    latents = bundles.latents_of(options.workdir) if options.workdir else None
    return latents is not None and latents.exif_orientation


def _check_needed(metrics: Sequence[str], needed: Sequence[str], problem: str, remedy: str) -> None:
    lacking = [name for name in needed if name not in metrics]
    if lacking:
        raise ValueError(f"{problem} {' and '.join(lacking)}, which this table needs; {remedy}.")
