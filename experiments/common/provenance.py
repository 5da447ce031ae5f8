"""Where the numbers of a report come from, and where reports are written."""

import pathlib

import jax
import numpy as np

import gmflow_jax


def versions() -> dict[str, str]:
    """Of what made a report, and the devices."""
    devices = f"{jax.device_count()} {jax.devices()[0].device_kind}"
    return {
        "gmflow_jax": gmflow_jax.__version__, "jax": jax.__version__, "numpy": np.__version__,
        "devices": devices,
    }  # fmt: skip


def check_out(out: pathlib.Path) -> None:
    """ValueError if a report cannot be written there."""
    if out.suffix != ".json":
        raise ValueError(f"--out must end in .json, but {str(out)!r} was given.")
    if not out.absolute().parent.is_dir():
        raise ValueError(f"The folder of {out} does not exist. Make it, or write elsewhere.")
