"""The processes of a multi-host run: connecting them, raising errors in all of them, sharing results."""

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
from gmflow_jax._files import write_bytes

# absl lists flags that are defined here in the --help of the program that calls `define_flags`.
flags.disclaim_key_flags()

_MESSAGE_BYTES = 1000
_SHARING_SECONDS = 30  # time limit for a file of one host to appear on the others

# Environment variables of launchers that start several processes; JAX finds the other processes by them.
_COUNT_VARIABLES = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_HOST_VARIABLES = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")


def define_flags() -> Callable[[], None]:
    """Define the flags of programs that run on several hosts; return a function that connects by them.

    The function then names the devices of this process.
    """
    distributed = flags.DEFINE_bool(
        "distributed",
        None,
        "Whether this is one of several processes; by default decided by the environment.",
    )
    address = flags.DEFINE_string(
        "coordinator_address", None, "Host and port of process 0, the same in all processes."
    )
    num_processes = flags.DEFINE_integer("num_processes", None, "Number of processes of the run.")
    process_id = flags.DEFINE_integer("process_id", None, "Index of this process, from 0.")

    def connect() -> None:
        join(distributed.value, address.value, num_processes.value, process_id.value)
        cli.name_devices()

    return connect


def join(
    distributed: bool | None,
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> None:
    """Connect this process to the others of its run; call it before any use of a device.

    Arguments that are None are read from the environment: JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES
    and JAX_PROCESS_ID, or else TPU metadata, Slurm or Open MPI, which JAX reads. A TPU host connects even
    if it is the only one.

    Args:
      distributed: False does nothing; True requires other processes; None connects only if the other
        arguments or the environment describe several processes.
      coordinator_address: host and port of process 0.
      num_processes: number of processes.
      process_id: index of this process, from 0.

    Raises:
      cli.UserError: if the description is incomplete, or the processes cannot be connected.
    """
    if distributed is False:
        return
    with cli.report_user_errors():
        arguments = {
            "coordinator_address": coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS"),
            "num_processes": _flag_or_variable(num_processes, "JAX_NUM_PROCESSES"),
            "process_id": _flag_or_variable(process_id, "JAX_PROCESS_ID"),
        }
        missing = [name for name, value in arguments.items() if value is None]
        has_launcher = _has_launcher()
        if not (distributed or has_launcher or len(missing) < len(arguments)):
            return
        if not has_launcher:
            _check_complete(missing, len(arguments))
        if not missing:
            _check_process_id(arguments["process_id"], arguments["num_processes"])
        try:
            jax.distributed.initialize(**arguments)
        except (ValueError, RuntimeError) as error:
            raise cli.UserError(
                f"The processes of this run could not be connected ({error}). Start the same command on "
                "every host, with --coordinator_address=HOST0:PORT --num_processes=N --process_id=I if there "
                "is neither TPU metadata nor Slurm; or give --nodistributed to run on this host alone.",
                later=True,
            ) from error


def _check_complete(missing: list[str], num_arguments: int) -> None:
    if 0 < len(missing) < num_arguments:
        raise ValueError(
            f"This is to be one of several processes, but {' and '.join(missing)} is missing; give "
            "--coordinator_address, --num_processes and --process_id, the last different on every host."
        )


def _check_process_id(process_id: int, num_processes: int) -> None:
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id is {process_id}, but must be from 0 to --num_processes - 1 = {num_processes - 1}."
        )


def _flag_or_variable(flag: int | None, variable: str) -> int | None:
    value = os.environ.get(variable)
    if flag is not None or value is None:
        return flag
    if not value.isdigit():
        raise ValueError(
            f"The environment variable {variable} is {value!r}, but must be a whole number."
        )
    return int(value)


def _has_launcher() -> bool:
    """Whether a launcher that JAX can ask has started this process; always true on a TPU host."""
    several = any(os.environ.get(name, "1") not in ("", "0", "1") for name in _COUNT_VARIABLES)
    return several or any("," in os.environ.get(name, "") for name in _HOST_VARIABLES) or _is_tpu_host()


def _is_tpu_host() -> bool:
    has_chips = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return bool(has_chips) and importlib.util.find_spec("libtpu") is not None


@contextlib.contextmanager
def fail_together() -> Iterator[dict[str, Any]]:
    """Like `cli.report_user_errors`, but if one process raises, all raise its message.

    Otherwise the other processes would wait for it forever. With several processes this includes JAX's
    errors of a device. All processes must enter the block.

    Yields:
      An empty dict for notes that JSON can represent. If the processes leave different notes in it, all
      raise.
    """
    notes, problem = {}, ""
    try:
        yield notes
    except Exception as error:
        of_device = isinstance(error, jax.errors.JaxRuntimeError) and jax.process_count() > 1
        if not of_device and not cli.is_reported(error):
            raise
        problem = cli.describe(error)
    if jax.process_count() > 1:
        problem = _exchange(notes, problem)
    if problem:
        raise cli.UserError(problem)


def _exchange(notes: dict[str, Any], problem: str) -> str:
    """Return the first problem of any process, or a message if their notes differ; "" if all is well."""
    message = problem.encode()[:_MESSAGE_BYTES].ljust(_MESSAGE_BYTES, b" ")
    digest = hashlib.sha256(json.dumps(notes, sort_keys=True).encode()).digest()
    own = np.frombuffer(message + digest, np.uint8)
    rows = np.asarray(multihost_utils.process_allgather(own))
    for index, row in enumerate(rows):
        text = row[:_MESSAGE_BYTES].tobytes().decode(errors="ignore").strip()
        if text:
            return f"Process {index}: {text}"
    if (rows[:, _MESSAGE_BYTES:] != rows[0, _MESSAGE_BYTES:]).any():
        return (
            "The processes of this run were started with different configurations or data. Give the same "
            "command and the same latents on every host; only --process_id differs."
        )
    return ""


def check_shared(folder: pathlib.Path, flag: str = "--workdir") -> None:
    """Raise ValueError in the processes that do not see a file that process 0 writes into `folder`."""
    if jax.process_count() == 1:
        return
    token = np.uint32(secrets.randbits(32))
    path = folder / f".seen_by_all_{int(multihost_utils.broadcast_one_to_all(token)):08x}"
    seen, problem = False, None
    try:
        seen = _sees(path)
    except OSError as error:  # raised only when no process waits for this one
        problem = error
    multihost_utils.sync_global_devices("every process has looked")
    if jax.process_index() == 0:
        with contextlib.suppress(OSError):
            path.unlink()
    if problem is not None:
        raise problem
    if not seen:
        raise ValueError(
            f"{folder} is not the same folder on all hosts, but all must share it; give a {flag} on a shared "
            "disk or in a bucket."
        )


def _sees(path: pathlib.Path) -> bool:
    """Make a file in process 0, and return whether this process sees it in time."""
    if jax.process_index() == 0:
        write_bytes(path, b"")
    deadline = time.monotonic() + _SHARING_SECONDS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def gather(tree: Any) -> list[Any]:
    """Gather the pytrees of numpy arrays of all processes, in the order of the processes.

    The processes' arrays may differ in the length of their first axes.
    """
    if jax.process_count() == 1:
        return [tree]
    leaves, structure = jax.tree.flatten(tree)
    columns = [_gather_array(np.asarray(leaf)) for leaf in leaves]
    return [structure.unflatten(parts) for parts in zip(*columns, strict=True)]


def _gather_array(array: np.ndarray) -> list[np.ndarray]:
    """Gather an array as bytes, because JAX would round float64."""
    rows = np.atleast_1d(np.ascontiguousarray(array))
    counts = np.asarray(multihost_utils.process_allgather(np.int32(len(rows))))
    width = rows.dtype.itemsize * math.prod(rows.shape[1:])
    padded = np.zeros((counts.max(), width), np.uint8)
    padded[: len(rows)] = rows.view(np.uint8).reshape(len(rows), width)
    gathered = np.asarray(multihost_utils.process_allgather(padded))
    parts = [np.ascontiguousarray(part[:n]) for part, n in zip(gathered, counts, strict=True)]
    arrays = [part.view(rows.dtype).reshape(-1, *rows.shape[1:]) for part in parts]
    return arrays if array.ndim else [part[0] for part in arrays]
