"""Compile a program for TPUs or GPUs that are not here, and report its memory, communication and cost.

  python -m experiments.compile --config=experiments/configs/imagenet256_gmdit_xl_k8.py --target=v4-128
  python -m experiments.compile --config=... --target=v5e-8 --batch_size=auto --out=report.json
  python -m experiments.compile --config=... --target=h200 --program=sample --solver=gm_sde --num_steps=8

It needs no device, data, checkpoint or autoencoder, but the compiler: for TPUs pip install
'gmflow-jax[train,tpu]', for GPUs 'gmflow-jax[train,cuda12]', each in an environment of its own.
XL/2 compiles in 1 to 2 minutes on two CPU cores.

The report holds the bytes on each device and whether they fit, FLOPs, collectives beside the least that the
layout needs, and for TPUs the compiler's own estimate of cycles by part of the model. An estimate is no
measurement. What was compiled is not kept: JAX's compilation cache cannot be read without the devices.
"""

import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # the compilers' warnings; read when jax is imported

import time
from typing import Any

from absl import flags
from ml_collections import config_flags

from experiments.common import cli, files
from experiments.compiler import memory, programs, report, targets
from experiments.compiler.program import compile_program
from gmflow_jax import solvers
from gmflow_jax._files import to_path

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Configuration file, for example experiments/configs/digits.py.", lock_config=True
)
_TARGET = flags.DEFINE_string(
    "target",
    None,
    "Devices by the name that they are rented by: v4-N and v5p-N with N TensorCores (two on each chip), "
    "v5e-N and v6e-N with N chips, h200, h100 or a100.",
)
_DEVICES = flags.DEFINE_integer("num_devices", None, "Number of GPUs, 1 to 8 of one host; by default 1.")
_PROGRAM = flags.DEFINE_string(
    "program",
    "train",
    "train: a training step; sample: all steps of a solver; decode: the usual autoencoder's decoder; "
    "inception: the network of FID.",
)
_BATCH = flags.DEFINE_string(
    "batch_size",
    None,
    "Images on all devices together, or auto for the largest batch that fits, to about 6 %. By default that "
    "of the configuration, and else 16 on each device, 32 for inception.",
)
_SOLVER = flags.DEFINE_string("solver", "gm_ode", f"Of sample: one of {', '.join(solvers.NAMES)}.")
_STEPS = flags.DEFINE_integer("num_steps", None, "Of sample: number of steps; by default 32.")
_ORDER = flags.DEFINE_integer("order", None, "Of sample: order of gm_ode and gm_sde, 1 or 2; by default 2.")
_SUBSTEPS = flags.DEFINE_integer(
    "num_substeps", None, "Of sample: sub-steps of gm_ode and gm_pc in each step; by default 4."
)
_GUIDED = flags.DEFINE_bool("guided", None, "Of sample: whether guidance is used; by default it is.")
_OUT = cli.define_path("out", None, "Path of a JSON file for the report.")
_SAMPLE_FLAGS = (_SOLVER, _STEPS, _ORDER, _SUBSTEPS, _GUIDED)


def main() -> None:
    with cli.report_user_errors():
        target, sampling, size = _check()
        targets.require_compiler(target)
        devices = target.devices()
        print(f"Compiling for {target.name}; a large program takes minutes.", flush=True)
        compiler = _Compiler(target, devices, sampling)
        result = compiler.largest() if size is None else compiler.compile(size)
    print(report.text(result))
    if _OUT.value:
        files.write_json(to_path(_OUT.value), result, sort_keys=False)
        print(f"Wrote {_OUT.value}.")


def _check() -> tuple[targets.Target, programs.Sampling, int | None]:
    """Check everything that needs no compiler; return the batch size, None for the largest."""
    if _CONFIG.value is None or _TARGET.value is None:
        raise ValueError(
            "--config and --target are needed, for example "
            "--config=experiments/configs/imagenet256_gmdit_s_k8.py --target=v5e-8."
        )
    target = targets.find(_TARGET.value, _DEVICES.value)
    name = _PROGRAM.value
    if name not in programs.NAMES:
        raise ValueError(f"There is no program {name!r}. Give --program one of {', '.join(programs.NAMES)}.")
    for flag in _SAMPLE_FLAGS:
        if flag.present and name != "sample":
            raise ValueError(f"--{flag.name} is for --program=sample, but {name} was given; leave it out.")
    for flag in (_STEPS, _SUBSTEPS):
        if flag.value is not None and flag.value < 1:
            raise ValueError(f"--{flag.name} must be at least 1, but {flag.value} was given.")
    if _OUT.value:
        files.check_parent(_OUT.value)
        if to_path(_OUT.value).is_dir():
            raise ValueError(f"{_OUT.value} is a folder, but --out must be a file; give another path.")
    sampling = programs.Sampling(*(flag.value for flag in _SAMPLE_FLAGS))
    programs.check(name, _CONFIG.value, target, sampling)
    return target, sampling, _batch_size(target)


def _batch_size(target: targets.Target) -> int | None:
    given = _BATCH.value
    if given == "auto":
        programs.batch_unit(_PROGRAM.value, _CONFIG.value, target)
        return None
    try:
        number = None if given is None else int(given)
    except ValueError:
        raise ValueError(f"--batch_size is {given!r}; give a whole number or auto.") from None
    return programs.batch_size(_PROGRAM.value, _CONFIG.value, target, number)


class _Compiler:
    """Compiles the program of the flags for batch sizes."""

    def __init__(self, target: targets.Target, devices: list[Any], sampling: programs.Sampling):
        self._target, self._devices, self._sampling = target, devices, sampling
        self._compilations, self._start = 0, time.perf_counter()

    def compile(self, size: int) -> dict[str, Any]:
        """Compile the program for a batch size; return its report."""
        self._compilations += 1
        program = programs.make(_PROGRAM.value, _CONFIG.value, self._devices, size, self._sampling)
        compiled = compile_program(program)
        if isinstance(compiled, memory.Refusal):
            result = report.describe_refusal(self._target, program, size, compiled)
        else:
            result = report.describe(self._target, program, size, compiled)
        return {
            "program": _PROGRAM.value,
            "compilations": self._compilations,
            "seconds_to_compile": time.perf_counter() - self._start,
            **result,
            "compiler": self._devices[0].client.platform_version,
            "config": json.loads(_CONFIG.value.to_json_best_effort()),
        }

    def largest(self) -> dict[str, Any]:
        """Return the report of the largest batch that fits, or of the smallest if none does."""
        reports: dict[int, dict[str, Any]] = {}

        def needed(size: int) -> tuple[bool, int | None]:
            reports[size] = self.compile(size)
            return reports[size]["fits"], reports[size]["memory_per_device"]["total"]

        unit = programs.batch_unit(_PROGRAM.value, _CONFIG.value, self._target)
        size, compilations = memory.largest_batch(
            needed, self._target, unit, lambda line: print(line, flush=True)
        )
        totals = {"compilations": compilations, "seconds_to_compile": time.perf_counter() - self._start}
        return reports[size or min(reports)] | totals


if __name__ == "__main__":
    targets.prepare()  # before the checks, which trace on CPUs
    cli.run(main, devices=False)
