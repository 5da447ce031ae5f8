"""The training loop: progress, metrics, checkpoints and interruption by signals."""

import contextlib
import dataclasses
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
from tqdm.auto import tqdm

from gmflow_jax.training._checkpoint import Checkpointer
from gmflow_jax.training._metrics import MetricWriter, average_metrics
from gmflow_jax.training._state import TrainState


@dataclasses.dataclass(frozen=True)
class Hook:
    """A function of the state that `fit` calls every so many steps, and after the last one.

    Attributes:
      every: steps between two calls; 0 calls it only at the steps `at`.
      run: run(state, step) is called with the state after `step` steps, and may return scalars to write.
        Its files should be complete when it returns, since it is not called again once a checkpoint of its
        step exists.
      at: further steps at which it is called.
    """

    every: int
    run: Callable[[TrainState, int], Mapping[str, float] | None]
    at: tuple[int, ...] = ()

    def is_due(self, step: int, num_steps: int) -> bool:
        """Tell whether to call it after `step` of `num_steps` steps."""
        regularly = bool(self.every) and (step % self.every == 0 or step == num_steps)
        return regularly or step in self.at


def fit(
    state: TrainState,
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    batch_fn: Callable[[int], Any],
    key: jax.Array,
    num_steps: int,
    *,
    writer: MetricWriter | None = None,
    checkpointer: Checkpointer | None = None,
    hooks: Sequence[Hook] = (),
    portable: Callable[[TrainState], TrainState] = lambda state: state,
    log_every: int = 100,
    checkpoint_every: int = 1000,
    max_skipped_in_row: int | None = None,
    global_batch_size: int | None = None,
    peak_images_per_second: float | None = None,
    meta: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> TrainState:
    """Train up to `num_steps` steps in all, starting from `state.step`.

    SIGTERM or Ctrl-C end the loop after the current step, with a checkpoint. A second signal acts as it would
    without the loop. A run that stops and resumes equals one that never stopped.

    Args:
      state: the state to start from; its buffers may be donated to `train_step`.
      train_step: compiled train_step(state, batch, key) -> (state, metrics), see `make_train_step`.
      batch_fn: batch_fn(step) returns the batch of the 0-based step; it must depend on the step only.
      key: random key, which `train_step` combines with `state.step`.
      num_steps: steps in all, including those that `state` has already made.
      writer: writes the metrics; None writes none.
      checkpointer: saves the checkpoints; None saves none.
      hooks: functions that are called every so many steps.
      portable: maps the state to the form that hooks and checkpoints get, see `sharding.Parallelism`.
      log_every: steps over which metrics are averaged. They are fetched from the devices only then.
      checkpoint_every: steps between two checkpoints; one is made at the end too.
      max_skipped_in_row: number of steps in a row that may be skipped because the loss or a gradient was not
        finite. It is checked when metrics are averaged. None and 0 are no limit.
      global_batch_size: images in a batch over all devices, from which the metric `images_per_second` is
        computed; None leaves it out.
      peak_images_per_second: images/s of all devices together at their peak FLOP/s, from which the metric
        `mfu` (model FLOPs utilisation) is computed; None leaves it out.
      meta: JSON values that are saved with each checkpoint.
      progress: whether to show a progress bar.

    Returns:
      The last state. After a signal it has made fewer than `num_steps` steps.

    Raises:
      ValueError: if `log_every` or `checkpoint_every` is below 1.
      FloatingPointError: if `max_skipped_in_row` steps in a row were skipped. Skipped steps change no
        parameter, and no checkpoint is made then.
    """
    _check_intervals(log_every, checkpoint_every)
    start = int(state.step)
    meter = _Meter(global_batch_size, peak_images_per_second, max_skipped_in_row)
    with _stop_flag() as stop, _progress_bar(num_steps, start, progress) as bar:
        for step in range(start, num_steps):
            state, metrics = train_step(state, batch_fn(step), key)
            done = step + 1
            meter.add(metrics)
            bar.update()
            stopping = _must_stop(stop, checkpointer, done)
            last = stopping or done == num_steps
            scalars: dict[str, float] = {}
            if done % log_every == 0 or last:
                scalars = meter.summarise()
                bar.set_postfix_str(_summary(scalars))
            for hook in hooks:
                if hook.is_due(done, num_steps):
                    with meter.paused():
                        scalars |= hook.run(portable(state), done) or {}
            if writer is not None and scalars:
                writer.write_scalars(done, scalars)
                writer.flush()
            meter.check_skipped(done)
            if checkpointer is not None and (done % checkpoint_every == 0 or last):
                if writer is not None:
                    writer.flush(force=True)  # a run that resumes from the checkpoint needs the rows up to it
                checkpointer.save_state(portable(state), meta)
            if stopping:
                bar.write(f"Stopped by a signal after {done} of {num_steps} steps.")
                break
    return state


def _check_intervals(log_every: int, checkpoint_every: int) -> None:
    if log_every < 1 or checkpoint_every < 1:
        raise ValueError(
            f"log_every is {log_every} and checkpoint_every {checkpoint_every}, but both are numbers of "
            "steps between two events; give at least 1."
        )


class _Meter:
    """Averages the metrics of a window of steps, measures its speed, and counts skipped steps in a row."""

    def __init__(
        self, batch_size: int | None, peak_images_per_second: float | None, max_skipped_in_row: int | None
    ):
        self._batch_size, self._peak = batch_size, peak_images_per_second
        self._max_skipped, self._skipped, self._longest = max_skipped_in_row, 0, 0
        self._window, self._start = [], time.perf_counter()

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        self._window.append(metrics)
        if len(self._window) > 2:
            # Queuing more steps than this would only fill the devices' memory with batches.
            jax.block_until_ready(self._window[-3])

    def summarise(self) -> dict[str, float]:
        """Return scalars of the steps since the last call, and start a new window."""
        window = jax.device_get(self._window)
        scalars = average_metrics(window)
        seconds = time.perf_counter() - self._start
        if self._batch_size is not None:
            scalars["images_per_second"] = self._batch_size * len(window) / seconds
            if self._peak is not None:
                scalars["mfu"] = scalars["images_per_second"] / self._peak
        for metrics in window:
            self._skipped = self._skipped + 1 if metrics["skipped"] else 0
            self._longest = max(self._longest, self._skipped)
        self._window, self._start = [], time.perf_counter()
        return scalars

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the time spent in this context from the speed."""
        jax.block_until_ready(self._window)
        start = time.perf_counter()
        yield
        self._start += time.perf_counter() - start

    def check_skipped(self, step: int) -> None:
        """Raise FloatingPointError if too many steps in a row were skipped."""
        if self._max_skipped and self._longest >= self._max_skipped:
            raise FloatingPointError(
                f"The loss or its gradient was not finite in {self._longest} steps in a row, up to about "
                f"step {step}. The parameters are those from before, and the checkpoints are kept. Lower "
                "the learning rate, clip the gradient or compute in float32, and resume; or look at the data."
            )


def _progress_bar(num_steps: int, start: int, shown: bool) -> tqdm:
    disable = not shown or jax.process_index() > 0
    return tqdm(total=num_steps, initial=start, unit="step", disable=disable, dynamic_ncols=True)


def _summary(scalars: Mapping[str, float]) -> str:
    shown = f"loss {scalars['loss']:.4f}"
    if "images_per_second" in scalars:
        shown += f", {scalars['images_per_second']:.1f} images/s"
    if scalars["num_skipped"]:
        shown += f", {scalars['num_skipped']:.0f} skipped"
    return shown


def _must_stop(stop: threading.Event, checkpointer: Checkpointer | None, step: int) -> bool:
    if jax.process_count() == 1:
        return stop.is_set()
    return checkpointer is not None and checkpointer.reached_preemption(step)


@contextlib.contextmanager
def _stop_flag() -> Iterator[threading.Event]:
    """Yield an event that the first SIGTERM or SIGINT sets instead of interrupting a step."""
    stop = threading.Event()
    signals = (signal.SIGTERM, signal.SIGINT)
    # Only the main thread may set handlers. In a multi-process run the handler of
    # jax.distributed must stay: it makes all processes stop at the same step.
    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
        yield stop
        return
    previous = {number: signal.getsignal(number) for number in signals}

    def restore():
        for number, handler in previous.items():
            signal.signal(number, handler)

    def request_stop(number, frame):
        del number, frame
        stop.set()
        restore()

    for number in signals:
        signal.signal(number, request_stop)
    try:
        yield stop
    finally:
        restore()
