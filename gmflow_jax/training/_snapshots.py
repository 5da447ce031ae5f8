"""Snapshots of trees of arrays in a folder, on top of Orbax."""

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from etils import epath

from gmflow_jax._files import BucketError, describe_bucket_error, error_number, is_address, remove_tree
from gmflow_jax.training._orbax import bound_retries, is_of_bucket, snapshot_folder

_OLD = ".old"  # folder into which Orbax moves the snapshots that are to be deleted
_COMPLETE = "commit_success.txt"  # in a bucket, the last file that Orbax writes of a snapshot


class Snapshots:
    """Trees of arrays and JSON values, stored by the number of steps in a folder of their own.

    A save returns when the arrays are copied from the devices, and continues in the background. A snapshot
    appears when it is complete. If a save fails because the disk is full, or by another error of the file
    system or the bucket, the next call of `save`, `wait` or `close` raises OSError. With several processes,
    all of them call every method, on one shared folder. Use it as a context manager, or call `close`, which
    waits for the saves.
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
          folder: the folder, or a gs:// address. What is not named by a number of steps is ignored there.
          keep: number of snapshots that are kept, the newest ones; None keeps all.
          keep_every: snapshots of multiples of this number of steps are kept too.
          read_only: whether the folder is only read. If False, it is made if it does not exist, and the
            remains of an interrupted save are removed.

        Raises:
          ValueError: if `keep` is below 1, the folder is a file, or Orbax cannot use the address.
          OSError: if the bucket cannot be read.
        """
        self.folder = snapshot_folder(folder)
        if keep is not None and keep < 1:
            raise ValueError(
                f"keep is {keep}, so no checkpoint would remain to resume from; give at least 1."
            )
        if self.folder.exists() and not self.folder.is_dir():
            raise ValueError(f"{self.folder} is a file, but checkpoints need a folder; give another path.")
        in_bucket = is_address(self.folder)
        if in_bucket:
            bound_retries()
        # Processes wait for each other at barriers with names, which must differ between folders.
        barriers = ocp.options.MultiprocessingOptions(barrier_sync_key_prefix=self.folder.name)
        # In a bucket, `_tidy` does what these options do. To delete, Orbax needs the right to read the
        # settings of the bucket; to create a folder, it would create the bucket; and it takes every folder
        # without its mark for the remains of a save.
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if in_bucket else keep,
            keep_period=None if in_bucket else keep_every or None,
            create=not (read_only or in_bucket),
            read_only=read_only,
            cleanup_tmp_directories=not (read_only or in_bucket),
            todelete_subdir=_OLD,
            multiprocessing_options=barriers,
            # Where Orbax creates folders in the background and fails, its threads wait for minutes.
            async_options=ocp.AsyncOptions(create_directories_asynchronously=not in_bucket),
        )
        self._read_only, self._newest = read_only, 0
        self._keep, self._keep_every = keep if in_bucket else None, keep_every
        try:
            self._manager = ocp.CheckpointManager(epath.Path(str(self.folder)), options=options)
        except Exception as error:
            if not (in_bucket and is_of_bucket(error, missing=True)):
                raise
            raise BucketError(describe_bucket_error(error, str(self.folder))) from error
        if in_bucket:
            self._tidy()

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
        self._tidy()
        self._newest = step
        with self._explained():
            self._manager.save(step, args=items_and_meta)

    def steps(self) -> list[int]:
        """Return the steps of all snapshots in order, including one that is still being written."""
        steps = sorted(self._manager.all_steps())
        if self._keep is None:
            return steps
        newest, every = steps[-self._keep :], self._keep_every
        return [step for step in steps if step in newest or (every and step % every == 0)]

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
          OSError: if the bucket cannot be read.
        """
        step = self._existing(step)
        items = {name: ocp.args.StandardRestore(_abstract(tree)) for name, tree in targets.items()}
        items_and_meta = ocp.args.Composite(**items, meta=ocp.args.JsonRestore())
        self.wait()
        try:
            restored = self._manager.restore(step, args=items_and_meta)
        except Exception as error:
            if is_address(self.folder) and is_of_bucket(error, missing=False):
                raise BucketError(describe_bucket_error(error, str(self.folder / str(step)))) from error
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
        self._tidy()

    def __enter__(self) -> "Snapshots":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error) -> None:
        if kind is None or not is_address(self.folder):
            self.close()
            return
        with contextlib.suppress(Exception):  # the bucket may be out of reach, as the error under way says
            self._manager.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn an error of the file system or the bucket, which Orbax raises as many types, into OSError."""
        try:
            yield
        except Exception as error:
            if is_address(self.folder) and is_of_bucket(error, missing=True):
                reason = describe_bucket_error(error, str(self.folder))
                raise BucketError(
                    f"The checkpoint of step {self._newest} could not be written. {reason}"
                ) from error
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

    def _tidy(self) -> None:
        """Delete the snapshots that are no longer kept, and in a bucket the remains of interrupted saves.

        Orbax has moved the former away, except in a bucket. Errors are ignored: on network file systems, a
        file that another process reads leaves a remainder.
        """
        if self._read_only or jax.process_index() > 0:
            return
        if not is_address(self.folder):
            shutil.rmtree(self.folder / _OLD, ignore_errors=True)
            return
        kept = {str(step) for step in self.steps()}
        with contextlib.suppress(Exception):
            for path in list(self.folder.iterdir()):
                if re.fullmatch("0|[1-9][0-9]*", path.name) and path.name not in kept and path.is_dir():
                    (path / _COMPLETE).unlink(missing_ok=True)  # first, so that no part of it is taken for it
                    remove_tree(path)

    def _existing(self, step: int | None) -> int:
        steps = self.steps()
        if (not steps) if step is None else (step not in steps):
            wanted = "no checkpoint" if step is None else f"no checkpoint of step {step}"
            raise ValueError(
                f"{self.folder} holds {wanted} (it has {steps}); train first, or point to "
                "the folder of checkpoints inside a finished run."
            )
        return steps[-1] if step is None else step


def _abstract(tree: Any) -> Any:
    """Describe the arrays to restore, on one device unless they have a sharding."""
    default = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])

    def describe(leaf):
        sharding = getattr(leaf, "sharding", None) or default
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    return jax.tree.map(describe, tree)
