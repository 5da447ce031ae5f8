"""The processes of a multi-host run: joining before any device is used, and failing together."""

import contextlib
import glob
import hashlib
import importlib.util
import json
import math
import os
import pathlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from absl import flags
from jax.experimental import multihost_utils

from experiments.common import cli

_MESSAGE_BYTES = 1000
_SHARING_SECONDS = 30  # until a file of one host must be seen by all

# Set by launchers that start several processes, from which jax finds the others by itself.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_HOSTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")


def define_flags() -> Callable[[], None]:
    """Flags of programs that several hosts run together, and what joins these hosts as they say."""
    distributed = flags.DEFINE_bool(
        "distributed", None, "Whether this is one process of several; by default if the environment says so."
    )
    address = flags.DEFINE_string("coordinator_address", None, "Host and port of process 0, for the others.")
    num_processes = flags.DEFINE_integer("num_processes", None, "How many processes work together.")
    process_id = flags.DEFINE_integer("process_id", None, "Which of them this is, from 0 on.")
    return lambda: join(distributed.value, address.value, num_processes.value, process_id.value)


def join(
    distributed: bool | None,
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> None:
    """Connect to the other processes where the flags, or else the environment, tell of them.

    The environment is asked if `distributed` is not False, and must tell if it is True: TPU metadata,
    Slurm, Open MPI, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. On a TPU host jax
    asks the metadata itself, also where it is the only one.
    """
    if distributed is False:
        return
    with cli.report_user_errors():
        given = {
            "coordinator_address": coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS"),
            "num_processes": _number(num_processes, "JAX_NUM_PROCESSES"),
            "process_id": _number(process_id, "JAX_PROCESS_ID"),
        }
        missing = [name for name, value in given.items() if value is None]
        told = len(missing) < len(given) or _launched()
        if not (distributed or told):
            return
        if 0 < len(missing) < len(given) and not _launched():
            raise ValueError(
                f"This is to be one of several processes, but {' and '.join(missing)} is missing; give "
                "--coordinator_address, --num_processes and --process_id, the last another one on every host."
            )
        if not missing and not 0 <= given["process_id"] < given["num_processes"]:
            raise ValueError(
                f"--process_id is {given['process_id']}, but counts from 0 to --num_processes - 1 = "
                f"{given['num_processes'] - 1}."
            )
        try:
            jax.distributed.initialize(**given)
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"The processes of this run could not be joined ({error}). Start the same command on every "
                "host, with --coordinator_address=HOST0:PORT --num_processes=N --process_id=I where neither "
                "TPU metadata nor Slurm tell; or give --nodistributed for this host alone."
            ) from error


def _number(flag: int | None, variable: str) -> int | None:
    value = os.environ.get(variable)
    if flag is not None or value is None:
        return flag
    if not value.isdigit():
        raise ValueError(f"The environment's {variable} is {value!r}, but must be a whole number.")
    return int(value)


def _launched() -> bool:
    many = any(os.environ.get(name, "1") not in ("", "0", "1") for name in _COUNTS)
    return many or any("," in os.environ.get(name, "") for name in _HOSTS) or _is_tpu_host()


def _is_tpu_host() -> bool:
    has_chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(has_chips) and importlib.util.find_spec("libtpu") is not None


@contextlib.contextmanager
def fail_together() -> Iterator[dict[str, Any]]:
    """`cli.report_user_errors` for what all processes do: if one fails, all do, with its sentence.

    Otherwise one would end and the others wait for it; so too where a device fails. What the block notes in
    the dict, which json must take, has to be the same in all processes.
    """
    notes, problem = {}, ""
    try:
        yield notes
    except (ValueError, OSError, jax.errors.JaxRuntimeError) as error:
        if jax.process_count() == 1 and isinstance(error, jax.errors.JaxRuntimeError):
            raise
        problem = str(error)
    if jax.process_count() > 1:
        problem = _exchange(notes, problem)
    if problem:
        raise cli.UserError(problem)


def _exchange(notes: dict[str, Any], problem: str) -> str:
    """The first problem that a process has, or that their notes differ."""
    message = problem.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b" ")
    digest = hashlib.sha256(json.dumps(notes, sort_keys=True).encode()).digest()
    mine = np.frombuffer(message + digest, np.uint8)
    everyone = np.asarray(multihost_utils.process_allgather(mine))
    for index, row in enumerate(everyone):
        text = row[:_MESSAGE_BYTES].tobytes().decode(errors="ignore").strip()
        if text:
            return f"Process {index}: {text}"
    if (everyone[:, _MESSAGE_BYTES:] != everyone[0, _MESSAGE_BYTES:]).any():
        return (
            "The processes of this run were started with different configurations or data. Give the same "
            "command, and the same latents, on every host; only --process_id differs."
        )
    return ""


def check_shared(folder: pathlib.Path, flag: str = "--workdir") -> None:
    """ValueError in the processes that do not see what the first one writes into a folder."""
    if jax.process_count() == 1:
        return
    token = np.uint32(secrets.randbits(32))
    path = folder / f".seen_by_all_{int(multihost_utils.broadcast_one_to_all(token)):08x}"
    if jax.process_index() == 0:
        path.touch()
    deadline = time.monotonic() + _SHARING_SECONDS
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    seen = path.exists()
    multihost_utils.sync_global_devices("every process has looked")
    if jax.process_index() == 0:
        path.unlink()
    if not seen:
        raise ValueError(
            f"{folder} is not the same folder on all hosts, but must be one that all share; give a {flag} on "
            "a shared disk."
        )


def gather(tree: Any) -> list[Any]:
    """A pytree of numpy arrays as every process has it, in their order; first axes may differ in length."""
    if jax.process_count() == 1:
        return [tree]
    leaves, structure = jax.tree.flatten(tree)
    columns = [_gather_array(np.asarray(leaf)) for leaf in leaves]
    return [structure.unflatten(parts) for parts in zip(*columns, strict=True)]


def _gather_array(array: np.ndarray) -> list[np.ndarray]:
    """As bytes, for jax would round float64."""
    rows = np.atleast_1d(np.ascontiguousarray(array))
    counts = np.asarray(multihost_utils.process_allgather(np.int32(len(rows))))
    width = rows.dtype.itemsize * math.prod(rows.shape[1:])
    padded = np.zeros((counts.max(), width), np.uint8)
    padded[: len(rows)] = rows.view(np.uint8).reshape(len(rows), width)
    everyone = np.asarray(multihost_utils.process_allgather(padded))
    parts = [np.ascontiguousarray(part[:n]) for part, n in zip(everyone, counts, strict=True)]
    arrays = [part.view(rows.dtype).reshape(-1, *rows.shape[1:]) for part in parts]
    return arrays if array.ndim else [part[0] for part in arrays]
