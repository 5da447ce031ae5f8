"""The versions that reports record, and the check of a report's path."""

import pathlib

import jax
import numpy as np

import gmflow_jax
from experiments.common import files


def versions() -> dict[str, str]:
    """Return the versions of gmflow_jax, jax and numpy, and the number and kind of devices."""
    devices = f"{jax.device_count()} {jax.devices()[0].device_kind}"
    return {
        "gmflow_jax": gmflow_jax.__version__, "jax": jax.__version__, "numpy": np.__version__,
        "devices": devices,
    }  # fmt: skip


def check_out(out: pathlib.Path) -> None:
    """Raise ValueError if `out` cannot be the path of a report."""
    if out.suffix != ".json":
        raise ValueError(f"--out must end in .json, but {str(out)!r} was given.")
    files.check_parent(out)
