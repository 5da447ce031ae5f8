"""Devices that programs are compiled for, by the names that users rent: TPU slices and NVIDIA GPUs.

The compilers run without the devices. That for TPUs is in libtpu, that for GPUs in JAX's CUDA plugin.
"""

import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Mapping
from typing import Any

import jax
from jax.experimental import topologies

from gmflow_jax import models

_GIB = 2**30
# Shapes of slices, in chips, from Cloud TPU's documentation.
_SHAPES_2D = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
_SHAPES_V4 = (
    "2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x12", "8x8x16", "8x16x16",
)  # fmt: skip
_SHAPES_V5P = (*_SHAPES_V4[:-1], "8x12x16", "8x16x16", "12x16x16", "16x16x16", "16x16x24")


@dataclasses.dataclass(frozen=True)
class _Tpu:
    """A generation of TPUs.

    Attributes:
      device_kind: JAX's name, by which `models.PEAK_FLOPS` gives the peak.
      topology: libtpu's name.
      memory: bytes of a chip, from the data sheet.
      clock: cycles per second. It is the peak divided by the operations of a cycle, 2 x 128 x 128 for each
        matrix unit: 8 such units of v4 and v5p, 4 of v5e, and 16 times as many operations in v6e, by whose
        estimates a product takes more than the 2 larger units that some data sheets list could compute.
      shapes: shapes of its slices.
      named_by_cores: whether v4-8 are 8 TensorCores, on 4 chips, instead of 8 chips.
    """

    device_kind: str
    topology: str
    memory: int
    clock: float
    shapes: tuple[str, ...]
    named_by_cores: bool = False

    @property
    def sizes(self) -> dict[int, str]:
        """Shapes by the number in the name of a slice."""
        cores = 2 if self.named_by_cores else 1
        return {cores * math.prod(map(int, shape.split("x"))): shape for shape in self.shapes}


_TPUS = {
    "v4": _Tpu("TPU v4", "v4", 32 * _GIB, 1.05e9, _SHAPES_V4, named_by_cores=True),
    "v5e": _Tpu("TPU v5 lite", "v5e", 16 * _GIB, 1.5e9, _SHAPES_2D),
    "v5p": _Tpu("TPU v5", "v5", 95 * _GIB, 1.75e9, _SHAPES_V5P, named_by_cores=True),
    "v6e": _Tpu("TPU v6 lite", "v6e", 32 * _GIB, 1.75e9, _SHAPES_2D),
}
# JAX's names of GPUs, and fields of XLA's description of a GPU, from NVIDIA's data sheets.
_GPUS = {
    "h200": ("NVIDIA H200", dict(
        core_count=132, fpus_per_core=128, clock_rate_ghz=1.98, memory_bandwidth=4_800_000_000_000,
        device_memory_size=141_000_000_000, l2_cache_size=50 * 2**20, shared_memory_per_core=228 * 2**10,
        shared_memory_per_block_optin=227 * 2**10, cuda_compute_capability="{ major: 9 minor: 0 }",
    )),
    "h100": ("NVIDIA H100 80GB HBM3", dict(
        core_count=132, fpus_per_core=128, clock_rate_ghz=1.98, memory_bandwidth=3_350_000_000_000,
        device_memory_size=80_000_000_000, l2_cache_size=50 * 2**20, shared_memory_per_core=228 * 2**10,
        shared_memory_per_block_optin=227 * 2**10, cuda_compute_capability="{ major: 9 minor: 0 }",
    )),
    "a100": ("NVIDIA A100-SXM4-80GB", dict(
        core_count=108, fpus_per_core=64, clock_rate_ghz=1.41, memory_bandwidth=2_039_000_000_000,
        device_memory_size=80_000_000_000, l2_cache_size=40 * 2**20, shared_memory_per_core=164 * 2**10,
        shared_memory_per_block_optin=163 * 2**10, cuda_compute_capability="{ major: 8 minor: 0 }",
    )),
}  # fmt: skip
_EVERY_GPU = dict(
    threads_per_block_limit=1024, threads_per_warp=32, threads_per_core_limit=2048,
    shared_memory_per_block=48 * 2**10, registers_per_core_limit=2**16, registers_per_block_limit=2**16,
    block_dim_limit_x=2**31 - 1, block_dim_limit_y=2**16 - 1, block_dim_limit_z=2**16 - 1,
)  # fmt: skip
_GPUS_OF_A_HOST = 8
# JAX takes this share of a GPU's memory, unless XLA_PYTHON_CLIENT_MEM_FRACTION gives another.
_GPU_MEMORY_SHARE = 0.75
# What the compiler for v5e keeps of a TPU's memory. It refuses programs itself, so this only starts a search.
_TPU_RESERVED = _GIB // 4


@dataclasses.dataclass(frozen=True)
class Target:
    """Devices to compile for.

    Attributes:
      name: name of the slice or the GPU.
      platform: 'tpu' or 'cuda'.
      device_kind: JAX's name of a device.
      num_devices: number of devices as JAX counts them; a chip of v4 or v5p is one.
      memory: bytes of a device.
      usable: bytes that a program may take.
      clock: cycles per second, in which the TPU's compiler estimates; None for GPUs.
      topology: arguments of `topologies.get_topology_desc`.
    """

    name: str
    platform: str
    device_kind: str
    num_devices: int
    memory: int
    usable: int
    clock: float | None
    topology: Mapping[str, Any]

    @property
    def peak_flops(self) -> float:
        """Dense bfloat16 operations per second of a device."""
        return models.PEAK_FLOPS[self.device_kind]

    def devices(self) -> list[Any]:
        """Return devices that programs can be compiled for, but that cannot run.

        Raises:
          ValueError: if the compiler cannot be started.
        """
        prepare()
        try:
            return list(topologies.get_topology_desc(**self.topology).devices)
        except RuntimeError as error:
            raise ValueError(
                f"The compiler for {self.name} does not start: {first_line(error)} Reinstall it, or choose "
                "another target."
            ) from error


def find(name: str, num_devices: int | None = None) -> Target:
    """Find a target by its name.

    Args:
      name: v4-N, v5e-N (or v5litepod-N), v5p-N or v6e-N; h200, h100 or a100.
      num_devices: number of GPUs of one host, by default 1; None for TPUs, whose name gives it.

    Returns:
      The target.

    Raises:
      ValueError: if there is no such target, or a TPU is given with a number of devices.
    """
    if name in _GPUS:
        return _gpu(name, 1 if num_devices is None else num_devices)
    match = re.fullmatch(r"(v\d\w*)-(\d+)", name.replace("v5litepod", "v5e"))
    if not match or match[1] not in _TPUS:
        raise ValueError(
            f"There is no target {name!r}. Give {', '.join(f'{tpu}-N' for tpu in _TPUS)}, such as v4-128, or "
            f"{', '.join(_GPUS)}."
        )
    generation, tpu = match[1], _TPUS[match[1]]
    if int(match[2]) not in tpu.sizes:
        counted = "TensorCores, two on each chip" if tpu.named_by_cores else "chips"
        raise ValueError(
            f"There is no slice {name}. Those of {generation} are "
            f"{', '.join(f'{generation}-{n}' for n in tpu.sizes)}; the number counts {counted}."
        )
    if num_devices is not None:
        raise ValueError(
            f"--num_devices is for GPUs, but {name} is a TPU slice, whose name gives its size; leave it out."
        )
    return _slice(name, tpu, tpu.sizes[int(match[2])])


def _slice(name: str, tpu: _Tpu, shape: str) -> Target:
    sizes = [*map(int, shape.split("x")), 1][:3]
    count = math.prod(sizes)
    if tpu.named_by_cores:
        # The two cores of a chip are one device. Cubes of 4 x 4 x 4 chips and multiples of them are tori.
        host = (2, 2, 1)
        wrap = (all(size % 4 == 0 for size in sizes),) * 3
        options: dict[str, Any] = {"chip_config_name": "megacore"}
    else:
        # A host of up to 8 chips; in larger slices hosts have 4. Only axes of 16 chips are closed to rings.
        host = tuple(sizes) if count <= 8 else (2, 2, 1)
        wrap = (*(size == 16 for size in sizes[:2]), False)
        options = {}
    options |= {"chips_per_host_bounds": host, "num_slices": 1, "wrap": wrap}
    topology = {"topology_name": f"{tpu.topology}:{shape}", "platform": "tpu", **options}
    usable = tpu.memory - _TPU_RESERVED
    return Target(name, "tpu", tpu.device_kind, count, tpu.memory, usable, tpu.clock, topology)


def _gpu(name: str, count: int) -> Target:
    if not 1 <= count <= _GPUS_OF_A_HOST:
        raise ValueError(
            f"--num_devices is {count}, but programs are compiled for the GPUs of one host; give 1 to "
            f"{_GPUS_OF_A_HOST}."
        )
    device_kind, fields = _GPUS[name]
    described = "\n".join(
        f"  {key} {value}" if str(value).startswith("{") else f"  {key}: {value}"
        for key, value in (_EVERY_GPU | fields).items()
    )
    config = (
        f'gpu_device_info {{\n{described}\n}}\nplatform_name: "CUDA"\n'
        f'device_description_str: "{device_kind}"\n'
        "dnn_version_info { major: 9 minor: 10 patch: 0 }\n"
    )
    topology = {
        "topology_name": name, "platform": "cuda", "topology": f"1x1x{count}", "target_config": config,
    }  # fmt: skip
    memory = fields["device_memory_size"]
    usable = int(_GPU_MEMORY_SHARE * memory)
    return Target(name, "cuda", device_kind, count, memory, usable, None, topology)


def first_line(error: Exception) -> str:
    """Return the first line of an error of a compiler, as a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return f"{lines[0].rstrip('.')}."


def require_compiler(target: Target) -> None:
    """Raise ValueError, with the command that installs it, if the compiler for a target is missing."""
    if target.platform == "tpu":
        found = bool(os.environ.get("TPU_LIBRARY_PATH")) or _is_installed("libtpu")
        missing, extra = "libtpu, the compiler for TPUs,", "tpu"
    else:
        found = any(_is_installed(f"jax_plugins.xla_cuda{version}") for version in (12, 13))
        missing, extra = "JAX's CUDA plugin, with the compiler for GPUs,", "cuda12"
    if not found:
        raise ValueError(
            f"{missing} is not installed here. Install it in an environment of its own: python3 -m venv "
            f".venv-{extra} && .venv-{extra}/bin/pip install 'gmflow-jax[train,{extra}]' (in a clone: -e "
            f"'.[train,{extra}]'). No device is needed."
        )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package around it
        return False


def prepare() -> None:
    """Set what the compilers read when they are loaded, so that they need no devices; this process uses CPUs.

    Without it libtpu takes a lock that only one process can hold, and asks the cloud for its metadata.
    """
    jax.config.update("jax_platforms", "cpu")
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "true"
    defaults = {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v4-8",
        "TPU_STDERR_LOG_LEVEL": "3",
    }
    for name, value in defaults.items():
        os.environ.setdefault(name, value)
    # Autotuning would measure kernels on the GPU.
    if "xla_gpu_autotune_level" not in os.environ.get("XLA_FLAGS", ""):
        flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0"
        os.environ["XLA_FLAGS"] = flags.strip()
