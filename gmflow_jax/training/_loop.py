"""The loop around a training step: progress, metrics, checkpoints, interruption."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
from tqdm.auto import tqdm

from gmflow_jax.training._checkpoint import Checkpointer
from gmflow_jax.training._metrics import MetricWriter, average_metrics
from gmflow_jax.training._state import TrainState


def fit(
    state: TrainState,
    train_step: Callable[..., tuple[TrainState, dict[str, jax.Array]]],
    batch_fn: Callable[[int], Any],
    key: jax.Array,
    num_steps: int,
    *,
    writer: MetricWriter | None = None,
    checkpointer: Checkpointer | None = None,
    log_every: int = 100,
    checkpoint_every: int = 1000,
    global_batch_size: int | None = None,
    meta: Mapping[str, Any] | None = None,
    progress: bool = True,
) -> TrainState:
    """Trains from `state.step` up to `num_steps` steps in all and returns the last state.

    `train_step(state, batch, key)` is already jitted (donating the state is safe here), and
    `batch_fn(step)` gives the batch of the 0-based step as a function of the step alone: a run
    that stops and resumes then equals one that never stopped. Metrics are averaged over
    `log_every` steps, and only then fetched from the device. Checkpoints carry `meta` and are
    made every `checkpoint_every` steps and at the end.

    SIGTERM or Ctrl-C end the loop after the step under way, with a checkpoint; the state returned
    then has made fewer than `num_steps` steps. A second signal acts as it would without the loop.
    """
    if log_every < 1 or checkpoint_every < 1:
        raise ValueError(
            f"log_every is {log_every} and checkpoint_every {checkpoint_every}, but both count "
            "steps between two events; give at least 1."
        )
    start = int(state.step)
    show = progress and jax.process_index() == 0
    with _stop_flag() as stop, tqdm(
        total=num_steps, initial=start, unit="step", disable=not show, dynamic_ncols=True
    ) as bar:
        window, window_start = [], time.perf_counter()
        for step in range(start, num_steps):
            state, metrics = train_step(state, batch_fn(step), key)
            done = step + 1
            window.append(metrics)
            if len(window) > 2:
                # Running further ahead of the device would only pile up batches in its memory.
                jax.block_until_ready(window[-3])
            bar.update()
            stopping = _must_stop(stop, checkpointer, done)
            if done % log_every == 0 or done == num_steps or stopping:
                scalars = average_metrics(jax.device_get(window))
                seconds = time.perf_counter() - window_start
                if global_batch_size is not None:
                    scalars["images_per_second"] = global_batch_size * len(window) / seconds
                _report(done, scalars, bar, writer)
                window, window_start = [], time.perf_counter()
            if checkpointer is not None and (done % checkpoint_every == 0 or stopping):
                checkpointer.save(state, meta)
            if stopping:
                bar.write(f"Stopped by a signal after {done} of {num_steps} steps.")
                break
        if checkpointer is not None:
            checkpointer.save(state, meta)
    return state


def _report(
    step: int, scalars: dict[str, float], bar: tqdm, writer: MetricWriter | None
) -> None:
    shown = f"loss {scalars['loss']:.4f}"
    if "images_per_second" in scalars:
        shown += f", {scalars['images_per_second']:.1f} images/s"
    if scalars["num_skipped"]:
        shown += f", {scalars['num_skipped']:.0f} skipped"
    bar.set_postfix_str(shown)
    if writer is not None:
        writer.write_scalars(step, scalars)
        writer.flush()


def _must_stop(stop: threading.Event, checkpointer: Checkpointer | None, step: int) -> bool:
    if jax.process_count() == 1:
        return stop.is_set()
    return checkpointer is not None and checkpointer.reached_preemption(step)


@contextlib.contextmanager
def _stop_flag() -> Iterator[threading.Event]:
    """Yields an event that the first SIGTERM or SIGINT sets instead of interrupting a step."""
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
