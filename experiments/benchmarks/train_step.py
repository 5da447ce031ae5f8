"""A training step of GMFlow against plain flow matching with the same backbone.

  python -m experiments.benchmarks.train_step --network=DiT-S/2 --batch_size=4
  python -m experiments.benchmarks.train_step --network=DiT-XL/2 --batch_size=256 --dtype=bfloat16 \\
    --remat=none,dots,full

The steps use experiments/configs/imagenet256_gmdit_xl_k8.py (AdamW, EMA, float32 parameters) on random
latents, over all devices. Three kinds are measured in turn:
- `gmflow`, with the transition and the spectral loss;
- `flow`, with the L2 loss of a network with one component;
- `flow_k`, with the L2 loss of the mean of the mixture network's prediction.

Columns: `overhead_percent` is the additional time relative to `flow`. `tflop_per_s` counts the operations of
three forward passes, without rematerialisation; `mfu` is this rate relative to the peak of the device, and
`of_matmul` relative to a large matrix product. `temp_gb` is the working memory of the step on each device.

With --batch_size=auto the batch is doubled as long as all --steps together fit into memory. JAX uses more of
a GPU's memory with XLA_PYTHON_CLIENT_MEM_FRACTION=.95.
"""

import dataclasses
import functools
import gc
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from absl import flags

from experiments.benchmarks import floors, inputs, timing
from experiments.benchmarks.report import OUT_HELP, Report
from experiments.common import cli
from experiments.configs import imagenet256_gmdit_xl_k8
from experiments.runs import networks
from experiments.training import steps
from gmflow_jax import data, models, sharding

STEPS = ("gmflow", "flow", "flow_k")

_NETWORK = flags.DEFINE_string("network", "DiT-S/2", f"Backbone, {inputs.NETWORK_HELP}.")
_CONFIG = inputs.define_network_flags()
_BATCH_SIZE = flags.DEFINE_string("batch_size", "8", "Samples in a batch, over all devices, or auto.")
_REMAT = flags.DEFINE_list("remat", ["none"], "Rematerialisation, some of none, dots and full.")
_STEPS = flags.DEFINE_list("steps", list(STEPS), "Kinds of steps; the state of each takes memory.")
_SECONDS = flags.DEFINE_float("seconds", 20.0, "Time for each --remat and all steps.", lower_bound=0.0)
_OUT = cli.define_path("out", None, OUT_HELP)

_FIRST_BATCH = 32  # of --batch_size=auto, on each device


def main() -> None:
    """Run the benchmark."""
    with cli.report_user_errors():
        report = Report("train_step", _OUT.value)
        batch_size = _batch_size()
        # All options are checked before the first measurement.
        if not _REMAT.value or not _STEPS.value:
            raise ValueError("There is nothing to measure; give at least one of --remat and of --steps.")
        for remat in _REMAT.value:
            _make_configs(remat, batch_size)
        sharding.make_parallelism().rows(batch_size)
    rate = floors.matmul_rate(_CONFIG(_NETWORK.value).dtype)
    for remat in _REMAT.value:
        size = batch_size
        if _BATCH_SIZE.value == "auto":
            size = largest_batch(functools.partial(_fits, report, remat), batch_size)
        rows = none_if_out_of_memory(functools.partial(_measure, report, remat, size, rate))
        for row in rows or [{"step": "out of memory", "remat": remat, "batch_size": size}]:
            report.add(**row)
    report.finish()


def _batch_size() -> int:
    """Return --batch_size, or the first size that auto tries."""
    text = _BATCH_SIZE.value
    if text == "auto" and jax.default_backend() == "cpu":
        raise ValueError("--batch_size=auto needs the memory limit of a GPU or TPU; give a number on a CPU.")
    if text != "auto" and not text.isdecimal():
        raise ValueError(f"--batch_size is {text!r}; give a whole number, or auto.")
    return _FIRST_BATCH * jax.device_count() if text == "auto" else int(text)


def _make_configs(remat: str, batch_size: int) -> dict[str, ml_collections.ConfigDict]:
    """Return {step: configuration}."""
    return {step: make_config(step, remat, batch_size) for step in _STEPS.value}


def make_config(step: str, remat: str, batch_size: int) -> ml_collections.ConfigDict:
    """Return the configuration of a run that makes a kind of steps.

    Args:
      step: one of `STEPS`.
      remat: rematerialisation: none, dots or full.
      batch_size: samples in a batch, over all devices.

    Raises:
      ValueError: if there is no such step.
    """
    if step not in STEPS:
        raise ValueError(f"There is no step {step!r}; give some of {', '.join(STEPS)}.")
    config = imagenet256_gmdit_xl_k8.get_config()
    config.network.update(dataclasses.asdict(_CONFIG(_NETWORK.value, remat=remat)))
    config.batch_size = batch_size
    config.spectrum.base_size = config.network.input_size
    if step != "gmflow":
        config.spectrum, config.loss.loss = None, "flow"
    if step == "flow":
        config.network.num_components, config.network.constant_log_std = 1, 0.0
    return config


class Trainer:
    """A compiled training step with its state, which each call donates and replaces by the new state."""

    def __init__(self, config: ml_collections.ConfigDict):
        parallelism = sharding.make_parallelism(config.parallel, **config.mesh)
        optimizer = steps.make_optimizer(config)
        init = steps.make_init(config, optimizer)
        self.network = networks.network_config(config)
        shape = (*self.network.input_height_width, self.network.in_channels)
        batches = data.FakeLatentBatches(shape, self.network.num_classes, config.batch_size, config.seed)
        batch = parallelism.put(batches(0, parallelism.rows(config.batch_size)), config.batch_size)
        step = steps.make_train_step(config, optimizer, parallelism)
        shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), batch)
        start = time.perf_counter()
        self._step = parallelism.compile(step, parallelism.abstract(init), shapes)
        self.compile_seconds = time.perf_counter() - start
        self._state = parallelism.init(init)
        self._inputs = (batch, parallelism.replicate(jax.random.key(config.seed)))

    def __call__(self) -> Any:
        """Make a step; return the state and the metrics."""
        self._state, metrics = self._step(self._state, *self._inputs)
        return self._state, metrics

    @property
    def temp_bytes(self) -> int | None:
        """Working memory of the step on a device; None if the backend does not report it."""
        memory = self._step.memory_analysis()
        return None if memory is None else memory.temp_size_in_bytes


def _measure(report: Report, remat: str, batch_size: int, rate: float) -> list[dict[str, Any]]:
    """Return the rows of all steps; `rate` is that of a large matrix product on one device."""
    trainers = {step: Trainer(config) for step, config in _make_configs(remat, batch_size).items()}
    timings = timing.measure(trainers, _SECONDS.value, log=report.log)
    peak, rows = floors.peak_rate(_CONFIG(_NETWORK.value).dtype), []
    for step, trainer in trainers.items():
        seconds = timings.seconds(step)
        reached = 3 * models.forward_flops(trainer.network) * batch_size / seconds.median
        per_device = reached / jax.device_count()
        rows.append({
            "step": step,
            "remat": remat,
            "batch_size": batch_size,
            "ms": seconds.scaled(1e3),
            "images_per_s": batch_size / seconds.median,
            "overhead_percent": _overhead(timings, step),
            "tflop_per_s": reached / 1e12,
            "mfu": per_device / peak if peak else None,
            "of_matmul": per_device / rate,
            "temp_gb": trainer.temp_bytes and trainer.temp_bytes / 1e9,
            "compile_s": trainer.compile_seconds,
        })  # fmt: skip
    return rows


def _overhead(timings: timing.Timings, step: str) -> timing.Quartiles | None:
    if step == "flow" or "flow" not in timings.rounds:
        return None
    return timings.ratio(step, "flow").scaled(100, -100)


def _fits(report: Report, remat: str, batch_size: int) -> bool:
    def run() -> bool:
        trainers = [Trainer(config) for config in _make_configs(remat, batch_size).values()]
        for trainer in trainers:
            jax.block_until_ready(trainer())
        return True

    fits = none_if_out_of_memory(run) or False
    report.log(f"remat {remat}: a batch of {batch_size} {'fits' if fits else 'does not fit'}")
    return fits


def largest_batch(fits: Callable[[int], bool], smallest: int) -> int:
    """Double the batch size as long as it fits; return the last one that fits, or `smallest` if none does."""
    batch_size = smallest
    while fits(batch_size):
        batch_size *= 2
    return max(batch_size // 2, smallest)


def none_if_out_of_memory(action: Callable[[], Any]) -> Any:
    """Return action(), or None if the memory of a device does not suffice."""
    try:
        return action()
    except jax.errors.JaxRuntimeError as error:
        if not cli.out_of_memory(error):
            raise
    gc.collect()  # frees the arrays of the failed attempt
    return None


if __name__ == "__main__":
    cli.run(main)
