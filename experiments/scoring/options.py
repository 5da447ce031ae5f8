"""Flags of the programs that score pictures, and the evaluator that they ask for."""

import dataclasses
import functools
from collections.abc import Callable, Sequence

from absl import flags

from experiments.runs import bundles, folder
from experiments.scoring import measure
from experiments.scoring.cells import Cell
from experiments.scoring.image_evaluator import ImageEvaluator
from gmflow_jax import evaluation, pipeline

OF_RUNS = ("autoencoder", "average", "ema_std")
_OF_PICTURES = ("inception", "reference_out", "batch_size", "neighbours", *OF_RUNS)


@dataclasses.dataclass(frozen=True)
class Options:
    """The values of the flags, by name; `given` are those that the user gave."""

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
    given: frozenset[str]

    @property
    def origin(self) -> dict[str, str]:
        """Where what is judged and measured by lies, for reports."""
        names = ("checkpoint", "workdir", "autoencoder", "average", "ema_std", "inception", "reference")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

    def refuse(self, names: Sequence[str], why: str) -> None:
        """ValueError if a flag was given that would have no effect."""
        useless = [f"--{name}" for name in names if name in self.given]
        if useless:
            raise ValueError(f"{' and '.join(useless)}: {why} Leave out what has no effect.")


def define_flags() -> Callable[[str | None], Options]:
    """Defines the flags but for --workdir; returns options(workdir), which reads them."""
    holders = {
        "checkpoint": flags.DEFINE_string(
            "checkpoint", None, "Diffusers folder of a published network, see experiments.download."
        ),
        "autoencoder": flags.DEFINE_string(
            "autoencoder", None, "Folder of the autoencoder that made the latents of the run in --workdir."
        ),
        "average": flags.DEFINE_string("average", "final", "Parameters of a run on latents: final or best."),
        "ema_std": flags.DEFINE_float(
            "ema_std", None, "Relative width of their average, where a run stored some."
        ),
        "inception": flags.DEFINE_string(
            "inception",
            None,
            "Inception's weights for pictures, .safetensors or .npz; see experiments/scoring/README.md.",
        ),
        "reference": flags.DEFINE_string(
            "reference",
            None,
            "What samples are compared with: for pictures an .npz (ADM's, the authors' statistics, uint8 "
            "images arr_0) or a folder of images; digits or checkerboard for --samples of these.",
        ),
        "reference_out": flags.DEFINE_string(
            "reference_out", None, "Where to keep the features of the reference, as .npz, for later runs."
        ),
        "batch_size": flags.DEFINE_integer(
            "batch_size", None, "Pictures drawn at a time; by default 16 on each device."
        ),
        "metrics": flags.DEFINE_list(
            "metrics",
            None,
            f"For pictures of {', '.join(evaluation.IMAGE_METRICS)}; by default all that the reference "
            f"allows, in a sweep {', '.join(measure.SWEPT_METRICS)}. Or nll: the likelihood of a run's "
            "training data.",
        ),
        "neighbours": flags.DEFINE_enum(
            "neighbours", "float32", ["float32", "float64", "float16", "float16_radii"],
            "How distances of precision and recall are rounded: float16 is ADM's rule, float16_radii that "
            "of the authors' figures.",
        ),
    }  # fmt: skip

    def options(workdir: str | None = None) -> Options:
        values = {name: holder.value for name, holder in holders.items()}
        values["metrics"] = tuple(values["metrics"]) if values["metrics"] else None
        given = frozenset(name for name, holder in holders.items() if holder.present)
        return Options(workdir=workdir, given=given, **values)

    return options


def draws_pictures(options: Options) -> bool:
    """Whether a checkpoint, or a run on latents, is judged; ValueError if neither it nor another run is."""
    if (options.checkpoint is None) == (options.workdir is None):
        raise ValueError("Give either --workdir, the folder of a run, or --checkpoint, a published network.")
    if options.checkpoint is not None:
        options.refuse(OF_RUNS, "a checkpoint has networks of its own, these are for --workdir.")
        return True
    if bundles.draws_latents(folder.read_config(options.workdir)):
        return True
    options.refuse([*_OF_PICTURES, "reference"], "this run draws no pictures that Inception could score.")
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
    """The evaluator of a checkpoint's or a run's pictures, and the cells as it draws them.

    `defaults` are measured where the flags ask for no metrics, and `needed` at least. ValueError if
    something is missing or does not fit; what takes longest to load comes last.
    """
    measure.check_files(options.inception, options.reference, options.reference_out)
    asked = options.metrics or defaults
    evaluation.check_metrics(asked, num_samples)
    _check_needed(asked, needed, "--metrics leaves out")
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
    load = functools.partial(load_measurement, options, image_size, num_samples, defaults)
    evaluator = ImageEvaluator(pipe, load, num_samples, labels, seed, options.batch_size)
    cells = [evaluator.resolve(cell) for cell in cells]
    _check_needed(evaluator.measurement.metrics, needed, f"{options.reference} has no images or features for")
    return evaluator, cells


def load_measurement(
    options: Options,
    image_size: int,
    num_samples: int,
    defaults: Sequence[str] = evaluation.IMAGE_METRICS,
) -> measure.Measurement:
    """What the flags name, see `measure.load`."""
    return measure.load(
        options.inception, options.reference, image_size, num_samples, options.metrics, defaults,
        options.neighbours, options.reference_out,
    )  # fmt: skip


def _check_needed(metrics: Sequence[str], needed: Sequence[str], why: str) -> None:
    lacking = [name for name in needed if name not in metrics]
    if lacking:
        raise ValueError(f"{why} {' and '.join(lacking)}, which this table cannot do without; give them.")
