"""What reports say of where their numbers come from, and where reports go."""

import json
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

import gmflow_jax
from experiments.trained import TrainedRun
from gmflow_jax import models


def of_runs(workdirs: Sequence[str], loaded: Sequence[TrainedRun]) -> list[dict[str, Any]]:
    """Folder, step, configuration and hash of the averaged parameters of each run."""
    return [
        {
            "workdir": str(workdir),
            "step": run.step,
            "weights_sha256": models.fingerprint(run.params),
            "config": json.loads(run.config.to_json_best_effort()),
        }
        for workdir, run in zip(workdirs, loaded, strict=True)
    ]


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
