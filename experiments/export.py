"""Export a run as a diffusers folder, or the sampler of a checkpoint as one file.

  python -m experiments.export --workdir=runs/imagenet --autoencoder=checkpoints/imagenet --out=FOLDER
  python -m experiments.export --checkpoint=checkpoints/imagenet --num_steps=8 --num_substeps=16
    --out=sampler.jaxexport

The folder has the layout of the authors' published networks. Their PyTorch code reads it, and
the programs here read it with --checkpoint.

The sampler's file runs without this library, where jax and safetensors are installed:

  sampler = jax.export.deserialize(bytearray(open("sampler.jaxexport", "rb").read()))
  params = safetensors.numpy.load_file("sampler.safetensors")
  indices = np.arange(2, dtype=np.int32)  # an index for each image of the batch, of any size
  images = sampler.call(params, np.uint32(seed), indices, np.int32([17, 18]), np.float32(guidance_scale))
"""

import time

from absl import flags

from experiments.common import cli, files
from experiments.runs import bundles
from gmflow_jax import interop, pipeline, solvers
from gmflow_jax._files import to_path
from gmflow_jax.interop._diffusers import check_new

_WORKDIR = cli.define_path("workdir", None, "Folder of a run on latents.")
_AUTOENCODER = cli.define_path(
    "autoencoder", None, "Folder of the autoencoder that encoded the run's latents, to export it too."
)
_AVERAGE = flags.DEFINE_string(
    "average", "final", "Which averaged parameters of the run: final, or best by the evaluation loss."
)
_EMA_STD = flags.DEFINE_float(
    "ema_std", None, "Relative width of an average that is rebuilt from stored ones (config.post_hoc_ema)."
)
_CHECKPOINT = cli.define_path("checkpoint", None, "Diffusers folder of a published network.")
_SOLVER = flags.DEFINE_string("solver", "gm_ode", f"One of {', '.join(solvers.NAMES)}.")
_ORDER = flags.DEFINE_integer(
    "order", None, "Order of gm_ode and gm_sde: 1 or 2; by default 2, for a distilled network 1."
)
_STEPS = flags.DEFINE_integer(
    "num_steps",
    None,
    "Number of steps, each one network call; by default 32, for a distilled network the number of calls that "
    "it was made for.",
)
_SUBSTEPS = flags.DEFINE_integer(
    "num_substeps",
    None,
    "Sub-steps of gm_ode and gm_pc in each step; by default 4, the authors' choice for 32 steps, and 128 in "
    "all for a distilled network. For fewer steps the paper takes max(128 // num_steps, 2), and 8 for 4 or 6 "
    "steps.",
)
_GUIDED = flags.DEFINE_bool(
    "guided",
    None,
    "Whether to use guidance, which takes a second network call; by default unless the network is distilled.",
)
_PLATFORMS = flags.DEFINE_list(
    "platforms", None, "Some of cpu, cuda, rocm and tpu; by default the one of this machine."
)
_DTYPE = flags.DEFINE_string(
    "dtype",
    None,
    "float32, bfloat16 or float16; by default float32 if the platforms include cpu, else the stored one.",
)
_OUT = cli.define_path("out", None, "The folder, or the file; by default sampler.jaxexport.")


def main() -> None:
    with cli.report_user_errors():
        if (_CHECKPOINT.value is None) == (_WORKDIR.value is None):
            raise ValueError(
                "Give either --workdir, a run to write as a diffusers folder, or --checkpoint, a published "
                "network whose sampler to export."
            )
        out = _OUT.value or (None if _CHECKPOINT.value is None else "sampler.jaxexport")
        if out is None:
            raise ValueError("--out is needed: the folder to write the run's networks to.")
        files.check_parent(out)
        start = time.perf_counter()
        written = _export_run(out) if _CHECKPOINT.value is None else _export_sampler(out)
    print(f"Wrote {written} in {time.perf_counter() - start:.1f} s.")


def _export_run(out: str) -> str:
    check_new(to_path(out))
    bundle = bundles.load_bundle(_WORKDIR.value, _AVERAGE.value, _AUTOENCODER.value, _EMA_STD.value)
    interop.save_diffusers(out, bundle)
    return f"{', '.join(bundle.networks)} to {out}"


def _export_sampler(out: str) -> str:
    platforms = _PLATFORMS.value or [None]
    platform = "cpu" if "cpu" in platforms else platforms[0]
    bundle = pipeline.load_bundle(_CHECKPOINT.value, _DTYPE.value, platform)
    given = {"order": _ORDER.value, "num_substeps": _SUBSTEPS.value, "guided": _GUIDED.value}
    recipe = pipeline.usual_recipe(bundle, _STEPS.value, solver=_SOLVER.value, **given)
    weights = pipeline.export_sampler(out, bundle, recipe, _STEPS.value, _PLATFORMS.value)
    return f"{out} and {weights} (to run them, see --help)"


if __name__ == "__main__":
    cli.run(main)
