"""Sampling end to end with random weights: speed, compile and dispatch time, and the network's share.

  python -m experiments.benchmarks.sampling
  python -m experiments.benchmarks.sampling --network=DiT-XL/2 --batch_size=125 --dtype=bfloat16 \\
    --solver=gm_sde --num_steps=32

Three calls are measured in turn on one device:
- `pipeline`, a call of the pipeline;
- `sampler`, all steps of the solver as one compiled function;
- `network`, a compiled function with the same number of network calls and as little else as possible: it uses
  Euler's method and classifier-free guidance.

Columns: `first_s` is the time of the first call, which traces, compiles and runs, and `first_cached_s` the
same in a new process that finds the compiled programs in JAX's persistent cache. `dispatch_ms` is the time
until the compiled function returns, while its result is still being computed. `network_share` is the time of
`network` relative to that of the row. `tflop_per_s` counts the operations of the network, a multiply-add as
two, and `of_matmul` is this rate relative to that of a large matrix product.
"""

import concurrent.futures
import dataclasses
import functools
import multiprocessing
import tempfile
import time

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from experiments.benchmarks import floors, inputs, timing
from experiments.benchmarks.report import OUT_HELP, Report
from experiments.common import cli
from experiments.common.solver_choices import calls_per_step
from gmflow_jax import interop, models, pipeline, solvers

_NETWORK = flags.DEFINE_string("network", "DiT-S/2", f"The network, {inputs.NETWORK_HELP}.")
_CONFIG = inputs.define_network_flags()
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 4, "Images in a batch.", lower_bound=1)
_SOLVER = flags.DEFINE_enum("solver", "gm_ode", solvers.NAMES, "The solver.")
_ORDER = flags.DEFINE_integer("order", 2, "Order of gm_ode and gm_sde, 1 or 2.")
_STEPS = flags.DEFINE_integer("num_steps", 8, "Steps of the solver.", lower_bound=1)
_SUBSTEPS = flags.DEFINE_integer("num_substeps", 16, "Sub-steps of gm_ode and gm_pc.", lower_bound=1)
_SCALE = flags.DEFINE_float("guidance_scale", 0.3, "Scale of probabilistic guidance; 0 is off.", 0.0, 0.99)
_ONE_BATCH = flags.DEFINE_bool("one_batch", True, "Whether guidance makes one network call, not two.")
_DECODE = flags.DEFINE_bool("decode", False, "Whether the pipeline also decodes images.")
_CACHED = flags.DEFINE_bool("cached_start", True, "Whether to measure first_cached_s, in new processes.")
_SECONDS = flags.DEFINE_float("seconds", 20.0, "Time for the rounds of all calls.", lower_bound=0.0)
_OUT = cli.define_path("out", None, OUT_HELP)


@dataclasses.dataclass(frozen=True)
class Job:
    """What is sampled, and how.

    Attributes:
      config: configuration of the network.
      recipe: solver and guidance of the pipeline.
      guidance_scale: scale of the guidance.
      num_steps: steps of the solver.
      batch_size: number of images.
      decode: whether the pipeline decodes latents to images.
    """

    config: models.GMDiTConfig
    recipe: pipeline.Recipe
    guidance_scale: float
    num_steps: int
    batch_size: int
    decode: bool

    @property
    def calls(self) -> int:
        """Number of network calls for each image; guidance makes two per call of the denoiser."""
        return self.num_steps * calls_per_step(self.recipe.solver) * (2 if self.recipe.guided else 1)

    def network_alone(self) -> "Job":
        """Return a job with the same network calls and as little else as possible."""
        plain = {"solver": "euler", "guidance": "cfg", "spectrum": None}
        recipe = dataclasses.replace(self.recipe, **plain)
        num_steps = self.calls // (2 if self.recipe.guided else 1)
        return dataclasses.replace(self, recipe=recipe, guidance_scale=inputs.CFG_SCALE, num_steps=num_steps)

    @property
    def labels(self) -> list[int]:
        """Classes of the images."""
        return [i % self.config.num_classes for i in range(self.batch_size)]

    def bundle(self) -> interop.Bundle:
        """Make the networks with random weights."""
        size, channels = self.config.input_size, self.config.in_channels
        return interop.init_bundle(
            jax.random.key(0),
            self.config,
            models.SpectrumMLPConfig(size, channels),
            models.AutoencoderKLConfig(latent_channels=channels) if self.decode else None,
        )

    def pipeline_call(self, bundle: interop.Bundle) -> timing.Call:
        """Return the call of the pipeline."""
        pipe = pipeline.Pipeline(bundle, devices=jax.local_devices()[:1])
        return functools.partial(
            pipe, self.labels, num_steps=self.num_steps, solver=self.recipe.solver, order=self.recipe.order,
            num_substeps=self.recipe.num_substeps, guidance_scale=self.guidance_scale,
            one_batch=self.recipe.one_batch, batch_size=self.batch_size, decode=self.decode, progress=False,
        )  # fmt: skip


def main() -> None:
    """Run the benchmark."""
    with cli.report_user_errors():
        report = Report("sampling", _OUT.value)
        job = _job()
    # The other processes run first, because some devices can be used by only one process at a time.
    cached = seconds_with_cache(job) if _CACHED.value else None
    if cached is None:
        cli.name_devices()
    jax.config.update("jax_enable_compilation_cache", False)
    rate, bundle = floors.matmul_rate(job.config.dtype), job.bundle()
    sampler, compiling = compile_sampler(job, bundle)
    network, compiling_network = compile_sampler(job.network_alone(), bundle)
    calls = {"pipeline": job.pipeline_call(bundle), "sampler": sampler, "network": network}
    timings = timing.measure(calls, _SECONDS.value, log=report.log)
    extra = {
        "pipeline": {"first_s": timings.first["pipeline"], "first_cached_s": cached},
        "sampler": {**compiling, "dispatch_ms": dispatch_seconds(sampler).scaled(1e3)},
        "network": compiling_network,
    }
    work = job.batch_size * job.calls * models.forward_flops(job.config)
    for name in calls:
        seconds = timings.seconds(name)
        report.add(
            measured=name,
            images_per_s=job.batch_size / seconds.median,
            s=seconds,
            ms_per_step=seconds.scaled(1e3 / job.num_steps),
            tflop_per_s=work / seconds.median / 1e12,
            of_matmul=work / seconds.median / rate,
            network_share=timings.ratio("network", name) if name != "network" else None,
            **extra[name],
        )
    report.finish()


def _job() -> Job:
    recipe = pipeline.Recipe(
        _SOLVER.value, _ORDER.value, _SUBSTEPS.value, guided=_SCALE.value > 0, one_batch=_ONE_BATCH.value
    )
    solvers.by_name(recipe.solver, recipe.order, recipe.num_substeps)
    config = _CONFIG(_NETWORK.value)
    return Job(config, recipe, _SCALE.value, _STEPS.value, _BATCH_SIZE.value, _DECODE.value)


def compile_sampler(job: Job, bundle: interop.Bundle) -> tuple[timing.Call, dict[str, float]]:
    """Compile all steps as one function; return its call, and the seconds that each stage took."""
    sampler = pipeline.Sampler(bundle, job.recipe)
    params = {name: models.functional(network)[1] for name, network in bundle.networks.items()}
    keys = jax.random.split(jax.random.key(0), job.batch_size)
    times = sampler.times(job.num_steps)
    arguments = (params, keys, jnp.asarray(job.labels), jnp.float32(job.guidance_scale), times)
    clock = [time.perf_counter()]
    traced = jax.jit(sampler.sample).trace(*arguments)
    clock.append(time.perf_counter())
    lowered = traced.lower()
    clock.append(time.perf_counter())
    compiled = lowered.compile()
    clock.append(time.perf_counter())
    seconds = dict(zip(("trace_s", "lower_s", "compile_s"), np.diff(clock).tolist(), strict=True))
    return functools.partial(compiled, *arguments), seconds


def dispatch_seconds(call: timing.Call) -> timing.Quartiles:
    """Measure the seconds until a call returns, while its result is still being computed."""
    samples = []
    for _ in range(timing.MIN_ROUNDS):
        start = time.perf_counter()
        result = call()
        samples.append(time.perf_counter() - start)
        jax.block_until_ready(result)
    return timing.Quartiles.of(samples)


def seconds_with_cache(job: Job) -> float:
    """Measure the first call in a new process, after another process has filled the compilation cache."""
    with tempfile.TemporaryDirectory(prefix="compiled-") as folder:
        for _ in range(2):
            context = multiprocessing.get_context("spawn")
            with concurrent.futures.ProcessPoolExecutor(1, context) as process:
                seconds = process.submit(_first_call, job, folder).result()
    return seconds


def _first_call(job: Job, cache: str) -> float:
    cli.name_devices()
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    call = job.pipeline_call(job.bundle())
    return timing.seconds_of(call)


if __name__ == "__main__":
    cli.run(main, devices=False)
