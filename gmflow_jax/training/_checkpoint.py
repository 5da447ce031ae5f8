"""Checkpoints of the training state, a thin wrapper around Orbax."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from gmflow_jax.training._state import TrainState

_ARRAY_ITEMS = {"params": "params", "ema": "ema_params", "opt_state": "opt_state"}


class Checkpointer:
    """Saves and restores training states in `folder`, which holds nothing else.

    A checkpoint has the separate items `params`, `ema`, `opt_state` and `meta` (json). Saving
    returns once the arrays are off the device, and writes in the background; `close` waits. The
    newest `keep` checkpoints stay. Use it as a context manager, or call `close`.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 3):
        self.folder = Path(folder).absolute()  # Orbax takes no relative path
        if keep < 1:
            raise ValueError(
                f"keep is {keep}, so no checkpoint would remain to resume from; give at least 1."
            )
        _check_folder(self.folder)
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
        self._manager = ocp.CheckpointManager(
            self.folder, options=options, item_names=(*_ARRAY_ITEMS, "meta")
        )

    def save(self, state: TrainState, meta: Mapping[str, Any] | None = None) -> None:
        """Saves `state` under its number of steps, with `meta` (json values, e.g. the config).

        `step` and `num_skipped` are added to `meta`. A step that is already saved is left alone.
        """
        step = int(state.step)
        if step == self.latest_step():
            return
        meta = {**(meta or {}), "step": step, "num_skipped": int(state.num_skipped)}
        try:
            json.dumps(meta)
        except TypeError as error:
            raise ValueError(
                f"The checkpoint's meta cannot be written as json ({error}); give only dicts, "
                "lists, strings, numbers, booleans and None."
            ) from error
        arrays = {
            item: ocp.args.StandardSave(getattr(state, field))
            for item, field in _ARRAY_ITEMS.items()
        }
        self._manager.save(step, args=ocp.args.Composite(**arrays, meta=ocp.args.JsonSave(meta)))

    def latest_step(self) -> int | None:
        """Returns the number of steps of the newest complete checkpoint, or None."""
        return self._manager.latest_step()

    def restore_latest(self, abstract_state: TrainState) -> tuple[TrainState, dict] | None:
        """Returns the newest state and its meta, or None where there is no checkpoint yet.

        `abstract_state` has the wanted structure, shapes, dtypes and, where given, shardings: a
        state, or `jax.eval_shape` of what makes one. Leaves without a sharding go to one device.
        """
        if self.latest_step() is None:
            return None
        targets = {
            item: ocp.args.StandardRestore(_abstract(getattr(abstract_state, field)))
            for item, field in _ARRAY_ITEMS.items()
        }
        items = self._restore(self.latest_step(), **targets, meta=ocp.args.JsonRestore())
        counters = {
            name: jax.device_put(
                jnp.int32(items["meta"][name]), getattr(abstract_state, name).sharding
            )
            for name in ("step", "num_skipped")
        }
        arrays = {field: items[item] for item, field in _ARRAY_ITEMS.items()}
        return TrainState(**arrays, **counters), dict(items["meta"])

    def restore_ema(self, abstract_params: Any, step: int | None = None) -> Any:
        """Returns only the averaged parameters, by default the newest; for sampling."""
        target = ocp.args.StandardRestore(_abstract(abstract_params))
        return self._restore(self._existing(step), ema=target)["ema"]

    def read_meta(self, step: int | None = None) -> dict:
        """Returns the json part of a checkpoint, by default of the newest."""
        return dict(self._restore(self._existing(step), meta=ocp.args.JsonRestore())["meta"])

    def reached_preemption(self, step: int) -> bool:
        """Says whether a multi-process run is being preempted: all processes agree on the step."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        """Waits for the checkpoints under way and closes the folder."""
        self._manager.wait_until_finished()
        self._manager.close()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def _existing(self, step: int | None) -> int:
        steps = list(self._manager.all_steps())
        if (not steps) if step is None else (step not in steps):
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise ValueError(
                f"{self.folder} holds {wanted} (it has {sorted(steps)}); train first, or point to "
                "the folder of checkpoints inside a finished run."
            )
        return self.latest_step() if step is None else step

    def _restore(self, step: int, **items):
        self._manager.wait_until_finished()
        try:
            return self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            # Orbax raises many types, some with pages of text.
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"The checkpoint of step {step} in {self.folder} could not be read as "
                f"{', '.join(items)}: it is damaged, or belongs to a model or optimiser of another "
                "shape. Restore it with the configuration it was trained with, or remove the "
                f"folder of that step to go on from an earlier one. ({reason})"
            ) from error


def _abstract(tree: Any) -> Any:
    """Describes the arrays to restore, on one device where nothing else is said."""
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            x.shape, x.dtype, sharding=getattr(x, "sharding", None) or default
        ),
        tree,
    )


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file, but checkpoints need a folder; give another path.")
    if not folder.is_dir():
        return
    # A kill during a save leaves a folder whose name contains "checkpoint-tmp".
    foreign = [
        entry.name for entry in folder.iterdir()
        if not (entry.is_dir() and (entry.name.isdigit() or "checkpoint-tmp" in entry.name))
    ]
    if foreign:
        raise ValueError(
            f"{folder} holds other things than checkpoints ({', '.join(sorted(foreign)[:3])}); "
            "old ones are deleted there, so give a folder of its own."
        )
