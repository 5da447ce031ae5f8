"""Joining the processes of a multi-host run, before any device is used."""

import os

import jax

from experiments import cli

# Set by launchers that start several processes, from which jax finds the others by itself.
_COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
_HOSTS = ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES")


def join(
    distributed: bool | None,
    coordinator_address: str | None,
    num_processes: int | None,
    process_id: int | None,
) -> None:
    """Connect to the other processes where the flags, or else the environment, tell of them.

    The environment is asked if `distributed` is not False, and must tell if it is True: TPU metadata,
    Slurm, Open MPI, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.
    """
    with cli.user_input():
        given = {
            "coordinator_address": coordinator_address or os.environ.get("JAX_COORDINATOR_ADDRESS"),
            "num_processes": _number(num_processes, "JAX_NUM_PROCESSES"),
            "process_id": _number(process_id, "JAX_PROCESS_ID"),
        }
        missing = [name for name, value in given.items() if value is None]
        told = len(missing) < len(given) or _launched()
        if distributed is False or not (distributed or told):
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
    many = any(int(os.environ.get(name) or 1) > 1 for name in _COUNTS)
    return many or any("," in os.environ.get(name, "") for name in _HOSTS)
