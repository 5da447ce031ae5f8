"""Export networks: a run as a diffusers folder, or a checkpoint's sampler as one file that needs jax alone.

  python -m experiments.export --workdir=runs/imagenet --autoencoder=checkpoints/imagenet --out=FOLDER
  python -m experiments.export --checkpoint=checkpoints/imagenet --num_steps=8 --out=sampler.jaxexport

The folder holds averaged parameters in the form in which the authors publish theirs; PyTorch reads it, and
so does --checkpoint here and elsewhere. To run the file, where jax and safetensors are installed:

  sampler = jax.export.deserialize(bytearray(open("sampler.jaxexport", "rb").read()))
  params = safetensors.numpy.load_file("sampler.safetensors")
  indices = np.arange(2, dtype=np.int32)  # of the images; any batch size
  images = sampler.call(params, np.uint32(seed), indices, np.int32([17, 18]), np.float32(guidance_scale))
"""

import pathlib
import time

from absl import flags

from experiments.common import cli
from experiments.runs import bundles
from gmflow_jax import interop, pipeline, solvers

_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of a run on latents.")
_AUTOENCODER = flags.DEFINE_string(
    "autoencoder", None, "Folder of the autoencoder that made the run's latents, to go with the network."
)
_AVERAGE = flags.DEFINE_string(
    "average", "final", "Which averaged parameters of the run: final, or best by its evaluation loss."
)
_EMA_STD = flags.DEFINE_float(
    "ema_std", None, "Relative width of the average, rebuilt from those that the run stored (post_hoc_ema)."
)
_CHECKPOINT = flags.DEFINE_string("checkpoint", None, "Diffusers folder of a published network.")
_SOLVER = flags.DEFINE_string("solver", "gm_ode", f"One of {', '.join(solvers.NAMES)}.")
_ORDER = flags.DEFINE_integer("order", 2, "Order of gm_ode and gm_sde: 1 or 2.")
_STEPS = flags.DEFINE_integer("num_steps", 32, "Steps, each one network call.")
_SUBSTEPS = flags.DEFINE_integer("num_substeps", 4, "Sub-steps of gm_ode or gm_pc in each step.")
_GUIDED = flags.DEFINE_bool("guided", True, "Whether there is guidance, which takes a second network call.")
_PLATFORMS = flags.DEFINE_list(
    "platforms", None, "Of cpu, cuda, rocm and tpu, comma-separated; by default the one that this runs on."
)
_DTYPE = flags.DEFINE_string(
    "dtype", None, "float32, bfloat16 or float16; by default that stored, and float32 where a CPU takes part."
)
_OUT = flags.DEFINE_string("out", None, "The folder, or the sampler's file; by default sampler.jaxexport.")


def main() -> None:
    with cli.report_user_errors():
        if (_CHECKPOINT.value is None) == (_WORKDIR.value is None):
            raise ValueError(
                "Give either --workdir, a run to be written as a diffusers folder, or --checkpoint, a "
                "published network whose sampler is exported."
            )
        out = _OUT.value or (None if _CHECKPOINT.value is None else "sampler.jaxexport")
        if out is None:
            raise ValueError("--out is needed: the folder that the run's networks are written to.")
        if not pathlib.Path(out).absolute().parent.is_dir():
            raise ValueError(f"The folder of {out} does not exist. Make it, or write elsewhere.")
        start = time.perf_counter()
        written = _export_run(out) if _CHECKPOINT.value is None else _export_sampler(out)
    print(f"Wrote {written} in {time.perf_counter() - start:.1f} s.")


def _export_run(out: str) -> str:
    bundle = bundles.load_bundle(_WORKDIR.value, _AVERAGE.value, _AUTOENCODER.value, _EMA_STD.value)
    interop.save_diffusers(out, bundle)
    return f"{', '.join(bundle.networks)} to {out}"


def _export_sampler(out: str) -> str:
    platforms = _PLATFORMS.value or [None]
    platform = "cpu" if "cpu" in platforms else platforms[0]
    bundle = pipeline.load_bundle(_CHECKPOINT.value, _DTYPE.value, platform)
    recipe = pipeline.Recipe(_SOLVER.value, _ORDER.value, _SUBSTEPS.value, _GUIDED.value)
    weights = pipeline.export_sampler(out, bundle, recipe, _STEPS.value, _PLATFORMS.value)
    return f"{out} and {weights}, to be run as --help says,"


if __name__ == "__main__":
    cli.run(main)
