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


class Snapshots:
    """Trees of arrays and json values by number of steps, in a `folder` that holds nothing else.

    Saving returns once the arrays are off the devices, and writes in the background; a snapshot is
    whole or not there. With several processes all of them call every method, on one shared folder.
    Use it as a context manager, or call `close`, which waits.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        keep: int | None = None,
        keep_every: int | None = None,
        read_only: bool = False,
    ):
        """The newest `keep` snapshots stay (None: all), and those of multiples of `keep_every` steps.

        Unless `read_only`, what a killed save has left in the folder is removed.
        """
        self.folder = Path(folder).absolute()  # Orbax takes no relative path
        if keep is not None and keep < 1:
            raise ValueError(
                f"keep is {keep}, so no checkpoint would remain to resume from; give at least 1."
            )
        _check_folder(self.folder)
        # Processes wait for each other by names, which those of another folder must not answer.
        barriers = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=self.folder.name)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            multiprocessing_options=barriers,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)

    def save(self, step: int, trees: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Saves named trees of arrays, and json values.

        Nothing is done for a step that is saved already, or is older than the newest one.
        """
        if step in self.steps():
            return
        try:
            json.dumps(meta)
        except TypeError as error:
            raise ValueError(
                f"The checkpoint's meta cannot be written as json ({error}); give only dicts, "
                "lists, strings, numbers, booleans and None."
            ) from error
        items = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        items["meta"] = ocp.args.JsonSave(dict(meta))
        self._manager.save(step, args=ocp.args.Composite(**items))

    def steps(self) -> list[int]:
        """Returns the steps of all snapshots, in order, also of one that is still being written."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Returns the number of steps of the newest snapshot, or None."""
        return self._manager.latest_step()

    def restore(self, step: int | None = None, **targets: Any) -> dict[str, Any]:
        """Returns the asked trees, and 'meta', of a snapshot, by default of the newest.

        A target has the wanted structure, shapes, dtypes and, where given, shardings: arrays, or
        `jax.ShapeDtypeStruct`s. Leaves without a sharding go to one device.
        """
        step = self._existing(step)
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in targets.items()}
        items["meta"] = ocp.args.JsonRestore()
        self.wait()
        try:
            restored = self._manager.restore(step, args=ocp.args.Composite(**items))
        except Exception as error:
            # Orbax raises many types, some with pages of text.
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"The checkpoint of step {step} in {self.folder} could not be read as "
                f"{', '.join(items)}: it is damaged, or belongs to a model or optimiser of another "
                "shape. Restore it with the configuration it was trained with, or remove the "
                f"folder of that step to go on from an earlier one. ({reason})"
            ) from error
        return {name: restored[name] for name in items}

    def read_meta(self, step: int | None = None) -> dict:
        """Returns the json part of a snapshot, by default of the newest."""
        return dict(self.restore(step)["meta"])

    def reached_preemption(self, step: int) -> bool:
        """Says whether a multi-process run is being preempted: all processes agree on the step."""
        return self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Waits until all that was saved is whole on the disk."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits for the snapshots under way and closes the folder."""
        self.wait()
        self._manager.close()

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    def _existing(self, step: int | None) -> int:
        steps = self.steps()
        if (not steps) if step is None else (step not in steps):
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise ValueError(
                f"{self.folder} holds {wanted} (it has {steps}); train first, or point to "
                "the folder of checkpoints inside a finished run."
            )
        return steps[-1] if step is None else step


class Checkpointer(Snapshots):
    """Saves and restores training states: snapshots with the items `params`, `ema`, `opt_state`,
    where there are any `power_averages`, and `meta`.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 3, keep_every: int | None = None):
        super().__init__(folder, keep, keep_every)

    def save_state(self, state: TrainState, meta: Mapping[str, Any] | None = None) -> None:
        """Saves `state` under its number of steps, with `meta` (json values, e.g. the config).

        `step` and `num_skipped` are added to `meta`. A step that is already saved is left alone.
        """
        step = int(state.step)
        meta = {**(meta or {}), "step": step, "num_skipped": int(state.num_skipped)}
        self.save(step, _trees(state), meta)

    def restore_latest(self, abstract_state: TrainState) -> tuple[TrainState, dict] | None:
        """Returns the newest state and its meta, or None where there is no checkpoint yet.

        `abstract_state` is a target in the sense of `restore`: a state, or `jax.eval_shape` of what
        makes one.
        """
        if self.latest_step() is None:
            return None
        trees = self.restore(**_trees(abstract_state))
        meta = trees.pop("meta")
        counters = {
            name: jax.device_put(jnp.int32(meta[name]), getattr(abstract_state, name).sharding)
            for name in ("step", "num_skipped")
        }
        fields = {field: trees[item] for item, field in _ARRAY_ITEMS.items()}
        averages = trees.get("power_averages", ())
        return TrainState(**fields, **counters, power_averages=tuple(averages)), dict(meta)

    def restore_ema(self, abstract_params: Any, step: int | None = None) -> Any:
        """Returns only the averaged parameters, by default the newest; for sampling."""
        return self.restore(step, ema=abstract_params)["ema"]


def _trees(state: TrainState) -> dict[str, Any]:
    trees = {item: getattr(state, field) for item, field in _ARRAY_ITEMS.items()}
    # Orbax saves no empty tree.
    return trees | ({"power_averages": state.power_averages} if state.power_averages else {})


def _abstract(tree: Any) -> Any:
    """Describes the arrays to restore, on one device where nothing else is said."""
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def describe(leaf):
        sharding = getattr(leaf, "sharding", None) or default
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(describe, tree)


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
