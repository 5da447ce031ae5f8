"""Checkpoints of the training state, on top of Orbax."""

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from gmflow_jax._files import error_number
from gmflow_jax.training._state import TrainState

_ARRAY_ITEMS = {"params": "params", "ema": "ema_params", "opt_state": "opt_state"}
_OLD = ".old"  # folder into which Orbax moves the snapshots that are to be deleted


class Snapshots:
    """Trees of arrays and JSON values, stored by the number of steps in a folder of their own.

    A save returns when the arrays are copied from the devices, and continues in the background. A snapshot
    appears when it is complete. If a save fails because the disk is full, or by another error of the file
    system, the next call of `save`, `wait` or `close` raises OSError. With several processes, all of them
    call every method, on one shared folder. Use it as a context manager, or call `close`, which waits for
    the saves.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        keep: int | None = None,
        keep_every: int | None = None,
        read_only: bool = False,
    ):
        """Open a folder of snapshots.

        Args:
          folder: the folder. What is not named by a number of steps is ignored there.
          keep: number of snapshots that are kept, the newest ones; None keeps all.
          keep_every: snapshots of multiples of this number of steps are kept too.
          read_only: whether the folder is only read. If False, it is made if it does not exist, and the
            remains of an interrupted save are removed.

        Raises:
          ValueError: if `keep` is below 1, or the folder is a file.
        """
        self.folder = pathlib.Path(folder).absolute()  # Orbax needs an absolute path
        if keep is not None and keep < 1:
            raise ValueError(
                f"keep is {keep}, so no checkpoint would remain to resume from; give at least 1."
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file, but checkpoints need a folder; give another path.")
        # Processes wait for each other at barriers with names, which must differ between folders.
        barriers = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=self.folder.name)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            keep_period=keep_every or None,
            create=not read_only,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            todelete_subdir=_OLD,
            multiprocessing_options=barriers,
        )
        self._manager = ocp.CheckpointManager(self.folder, options=options)
        self._read_only, self._newest = read_only, 0

    def save(self, step: int, trees: Mapping[str, Any], meta: Mapping[str, Any]) -> None:
        """Save named trees of arrays, and JSON values.

        Nothing is done if the step is already saved, or is older than the newest one.

        Args:
          step: number of steps.
          trees: trees of arrays by name.
          meta: values that can be written as JSON.

        Raises:
          ValueError: if `meta` cannot be written as JSON.
          OSError: if this snapshot or the one before could not be written.
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
        items_and_meta = ocp.args.Composite(**items, meta=ocp.args.JsonSave(dict(meta)))
        self.wait()
        self._delete_old()
        self._newest = step
        with self._explained():
            self._manager.save(step, args=items_and_meta)

    def steps(self) -> list[int]:
        """Return the steps of all snapshots in order, including one that is still being written."""
        return sorted(self._manager.all_steps())

    def latest_step(self) -> int | None:
        """Return the step of the newest snapshot, or None."""
        return self._manager.latest_step()

    def restore(self, step: int | None = None, **targets: Any) -> dict[str, Any]:
        """Read trees of a snapshot.

        Args:
          step: number of steps; None is the newest snapshot.
          **targets: for each tree, by name, a tree of the same structure with the wanted shapes, dtypes and
            optionally shardings: arrays or `jax.ShapeDtypeStruct`s. Leaves without a sharding go to one
            device.

        Returns:
          The trees by name, and 'meta'.

        Raises:
          ValueError: if there is no such snapshot, or it cannot be read as these targets.
        """
        step = self._existing(step)
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in targets.items()}
        items_and_meta = ocp.args.Composite(**items, meta=ocp.args.JsonRestore())
        self.wait()
        try:
            restored = self._manager.restore(step, args=items_and_meta)
        except Exception as error:
            # Orbax raises many types, some with pages of text.
            reason = " ".join(str(error).split())[:300]
            raise ValueError(
                f"The checkpoint of step {step} in {self.folder} could not be read as "
                f"{', '.join([*items, 'meta'])}: it is damaged, or belongs to a model or optimiser of "
                "another shape. Restore it with the configuration it was trained with, or remove the "
                f"folder of that step to resume from an earlier one. ({reason})"
            ) from error
        return {name: restored[name] for name in (*items, "meta")}

    def read_meta(self, step: int | None = None) -> dict:
        """Return the JSON values of a snapshot, by default of the newest."""
        return dict(self.restore(step)["meta"])

    def reached_preemption(self, step: int) -> bool:
        """Tell whether a multi-process run is being preempted at this step; all processes return the same."""
        return self._manager.reached_preemption(step)

    def wait(self) -> None:
        """Wait until all saves are complete on disk; raise OSError if the last one failed."""
        with self._explained():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait for the saves and close the folder; raise OSError if the last save failed."""
        with self._explained():
            self._manager.close()
        self._delete_old()

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, *error) -> None:
        self.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of the file system, which Orbax raises as various types, into OSError."""
        try:
            yield
        except Exception as error:
            number = error_number(error)
            if number is None:
                raise
            raise OSError(
                number,
                f"The checkpoint of step {self._newest} could not be written to {self.folder}: "
                f"{os.strerror(number)}. {self._newest_complete()}",
            ) from error

    def _newest_complete(self) -> str:
        steps = [int(entry.name) for entry in self.folder.iterdir() if entry.name.isdecimal()]
        return f"The newest complete one there is of step {max(steps)}." if steps else "There is no other."

    def _delete_old(self) -> None:
        """Delete the snapshots that are no longer kept, which Orbax has moved away.

        Errors are ignored: on network file systems, a file that another process reads leaves a remainder.
        """
        if not self._read_only and jax.process_index() == 0:
            shutil.rmtree(self.folder / _OLD, ignore_errors=True)

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
    """Snapshots of training states.

    Their items are `params`, `ema`, `opt_state`, `meta`, and `power_averages` if the state has any.
    """

    def __init__(self, folder: str | os.PathLike, keep: int = 3, keep_every: int | None = None):
        """Open a folder of checkpoints.

        Args:
          folder: the folder, as for `Snapshots`.
          keep: number of checkpoints that are kept, the newest ones.
          keep_every: checkpoints of multiples of this number of steps are kept too.

        Raises:
          ValueError: as `Snapshots`.
        """
        super().__init__(folder, keep, keep_every)

    def save_state(self, state: TrainState, meta: Mapping[str, Any] | None = None) -> None:
        """Save `state` under its number of steps.

        `step` and `num_skipped` are added to `meta`. Nothing is done if the step is already saved.

        Args:
          state: the training state.
          meta: values that can be written as JSON, for instance the configuration.
        """
        step = int(state.step)
        meta = {**(meta or {}), "step": step, "num_skipped": int(state.num_skipped)}
        self.save(step, _trees(state), meta)

    def restore_latest(self, abstract_state: TrainState) -> tuple[TrainState, dict] | None:
        """Read the newest state.

        Args:
          abstract_state: a target as for `restore`: a state, or `jax.eval_shape` of a function that makes
            one.

        Returns:
          The state and its meta, or None if there is no checkpoint yet.
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
        """Read the averaged parameters alone, for sampling.

        Args:
          abstract_params: a target as for `restore`.
          step: number of steps; None is the newest checkpoint.

        Returns:
          The averaged parameters.
        """
        return self.restore(step, ema=abstract_params)["ema"]


def _trees(state: TrainState) -> dict[str, Any]:
    trees = {item: getattr(state, field) for item, field in _ARRAY_ITEMS.items()}
    # Orbax cannot save an empty tree.
    return trees | ({"power_averages": state.power_averages} if state.power_averages else {})


def _abstract(tree: Any) -> Any:
    """Describe the arrays to restore, on one device unless they have a sharding."""
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def describe(leaf):
        sharding = getattr(leaf, "sharding", None) or default
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(describe, tree)
