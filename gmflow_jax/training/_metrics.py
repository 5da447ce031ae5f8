"""Averages of step metrics, and their files: a CSV table and TensorBoard events."""

import contextlib
import csv
import os
import pathlib
import tempfile
import time
from collections.abc import Mapping, Sequence

import numpy as np
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]  # made at run time
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]  # made at run time

from gmflow_jax._files import download, is_address, naming, to_path, upload_folder, write_whole

_TABLE = "metrics.csv"
_UPLOAD_SECONDS = 30.0  # between two uploads to a bucket that are not forced


def average_metrics(window: Sequence[Mapping[str, np.ndarray]]) -> dict[str, float]:
    """Summarise the metrics of several steps.

    Losses and gradient norms are averaged over the steps that were not skipped, and the time bins over their
    samples: `loss_t_0.25_0.50` is the mean loss of samples with t in [0.25, 0.5); empty bins are left out.
    `num_skipped`, `ema_decay` and `learning_rate` are those of the last step.

    Args:
      window: metrics of each step, as host arrays.

    Returns:
      Floats by name.
    """
    kept = [metrics for metrics in window if not metrics["skipped"]]
    last = window[-1]
    result = {
        name: float(np.mean([m[name] for m in kept], dtype=np.float64)) if kept else float("nan")
        for name in ("loss", "loss_transition", "loss_spectral", "grad_norm")
        if name in last
    }
    for name in ("learning_rate", "ema_decay", "num_skipped"):
        if name in last:
            result[name] = float(last[name])
    sums = np.array([m["time_bin_sum"] for m in window], np.float64).sum(axis=0)
    counts = np.array([m["time_bin_count"] for m in window], np.float64).sum(axis=0)
    edges = np.linspace(0.0, 1.0, len(counts) + 1)
    for low, high, total, count in zip(edges[:-1], edges[1:], sums, counts, strict=True):
        if count > 0:
            result[f"loss_t_{low:.2f}_{high:.2f}"] = float(total / count)
    return result


class MetricWriter:
    """Writes scalars to `metrics.csv` and to TensorBoard files.

    Both are written by the caller's thread: if one cannot be written, the caller gets the OSError.
    tensorboardX's `SummaryWriter` has a thread of its own, and waits forever once that met a full disk.

    A file in a bucket cannot be appended to. With an address, both files are written to a temporary folder of
    this machine, and replace those in the bucket as a whole: when `flush` is called with `force`, in `close`,
    and otherwise at the first `flush` after 30 s. `fit` forces it before each checkpoint. So a kill at any
    moment loses at most the rows since the last checkpoint, which the resumed run writes again, and a reader
    finds whole rows only.

    The table has a column `step` and one for each name ever written; cells without a value stay empty. Create
    a writer in one process only. Use it as a context manager, or call `close`.

    Args:
      folder: the folder of the files, or an address; it is made if it does not exist.
      resume_step: number of steps that the run has already made. Rows of later steps, left by a run that got
        further than its last checkpoint, are dropped, so that no step appears twice.

    Raises:
      ValueError: if `metrics.csv` is not a table of metrics.
      OSError: if a file cannot be read or written.
    """

    def __init__(self, folder: str | os.PathLike, resume_step: int = 0):
        self._bucket, self._temporary, folder = None, None, to_path(folder)
        if is_address(folder):
            self._bucket, self._temporary = folder, tempfile.TemporaryDirectory(prefix="gmflow-")
            folder = pathlib.Path(self._temporary.name)
            if (self._bucket / _TABLE).exists():
                download(self._bucket / _TABLE, folder / _TABLE)
        folder.mkdir(parents=True, exist_ok=True)
        self._path, self._uploaded = folder / _TABLE, time.monotonic()
        self._columns, rows = _read_rows(self._path, resume_step, self._bucket)
        self._new_rows = True  # at first those of a table that was cut
        self._rewrite(rows)
        self._events = folder / "events.out.tfevents"  # the writer adds the time and the host
        self._tensorboard = EventsWriter(str(folder / "events"))
        if resume_step > 0:  # TensorBoard drops what earlier files have of this step and later ones
            start = SessionLog(status=SessionLog.START)
            self._tensorboard.write_event(Event(step=resume_step + 1, session_log=start))

    def write_scalars(self, step: int, scalars: Mapping[str, float]) -> None:
        """Add one row.

        Args:
          step: number of steps made.
          scalars: values by name.
        """
        self._new_rows = True
        new = [name for name in scalars if name not in self._columns]
        if new:
            self._file.close()
            _, rows = _read_rows(self._path)
            self._columns += new
            self._rewrite(rows)
        values = {name: float(value) for name, value in scalars.items()}
        with naming(self._path):
            self._table.writerow({"step": int(step), **values})
            self._file.flush()
        scalar_values = [Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        summary = Summary(value=scalar_values)
        with naming(self._events):
            self._tensorboard.write_event(Event(step=int(step), wall_time=time.time(), summary=summary))

    def flush(self, force: bool = False) -> None:
        """Make everything written so far visible to readers; in a bucket at most every 30 s, or if forced."""
        with naming(self._events):
            self._tensorboard.flush()
        if force or time.monotonic() > self._uploaded + _UPLOAD_SECONDS:
            self._upload()

    def close(self) -> None:
        """Write the rest and close the files."""
        try:
            with naming(self._path):
                self._file.close()
        finally:
            with naming(self._events):
                self._tensorboard.close()
        try:
            self._upload()
        finally:
            if self._temporary is not None:
                self._temporary.cleanup()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *error) -> None:
        with contextlib.ExitStack() as stack:
            if kind is not None:  # a second error would hide the one under way
                stack.enter_context(contextlib.suppress(OSError))
            self.close()

    def _upload(self) -> None:
        """Replace the files in the bucket, if there is one and there are new rows."""
        if self._bucket is None or not self._new_rows:
            return
        upload_folder(self._path.parent, self._bucket)
        self._new_rows, self._uploaded = False, time.monotonic()

    def _rewrite(self, rows: list[dict[str, str]]) -> None:
        def write(temporary: pathlib.Path) -> None:
            with temporary.open("w", newline="") as file:
                table = csv.DictWriter(file, self._columns, restval="")
                table.writeheader()
                table.writerows(rows)

        write_whole(self._path, write, writer=0)  # one process writes
        self._file = self._path.open("a", newline="")
        self._table = csv.DictWriter(self._file, self._columns, restval="")


def _read_rows(
    path: pathlib.Path, last_step: int | None = None, bucket: pathlib.Path | None = None
) -> tuple[list[str], list[dict[str, str]]]:
    """Return the columns and the rows up to `last_step` of a table that may not exist yet.

    If it is a copy of one in a bucket, errors name that one.
    """
    if not path.exists():
        return ["step"], []
    text = path.read_text()
    # A kill may have cut the last row short: text after the last line end is ignored.
    table = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    columns = list(table.fieldnames or ["step"])
    if columns[0] != "step":
        raise ValueError(
            f"{(bucket or path.parent) / path.name} has the columns {columns}, so it is not a table of "
            "metrics; move it away or choose another folder."
        )
    rows = list(table)
    if last_step is not None:
        rows = [row for row in rows if int(row["step"]) <= last_step]
    return columns, rows
