"""Export a checkpoint's sampler as one file that runs with jax alone, and its parameters beside it.

  python -m experiments.export --checkpoint=checkpoints/imagenet --num_steps=8 --out=sampler.jaxexport

Then, where jax and safetensors are installed:

  sampler = jax.export.deserialize(bytearray(open("sampler.jaxexport", "rb").read()))
  params = safetensors.numpy.load_file("sampler.safetensors")
  indices = np.arange(2, dtype=np.int32)  # of the images; any batch size
  images = sampler.call(params, np.uint32(seed), indices, np.int32([17, 18]), np.float32(guidance_scale))
"""

import pathlib
import time

from absl import flags

from experiments import cli
from gmflow_jax import pipeline, solvers

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
_OUT = flags.DEFINE_string("out", "sampler.jaxexport", "Where the sampler goes.")


def main() -> None:
    with cli.user_input():
        if _CHECKPOINT.value is None:
            raise ValueError("--checkpoint is needed: the folder of a published network.")
        if not pathlib.Path(_OUT.value).absolute().parent.is_dir():
            raise ValueError(f"The folder of {_OUT.value} does not exist. Make it, or write elsewhere.")
        start = time.perf_counter()
        platforms = _PLATFORMS.value or [None]
        platform = "cpu" if "cpu" in platforms else platforms[0]
        bundle = pipeline.load_bundle(_CHECKPOINT.value, _DTYPE.value, platform)
        recipe = pipeline.Recipe(_SOLVER.value, _ORDER.value, _SUBSTEPS.value, _GUIDED.value)
        weights = pipeline.export_sampler(_OUT.value, bundle, recipe, _STEPS.value, _PLATFORMS.value)
    seconds = time.perf_counter() - start
    print(f"Wrote {_OUT.value} and {weights} in {seconds:.1f} s. To run them, see --help.")


if __name__ == "__main__":
    cli.run(main)
