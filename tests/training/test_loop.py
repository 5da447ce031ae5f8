"""The training loop: resuming, signals, metrics, hooks and skipped steps."""

import csv
import os
import signal
import time

import jax
import numpy as np
import pytest

from gmflow_jax import training

pytestmark = pytest.mark.usefixtures("fast_compile")


@pytest.fixture(scope="module")
def start(toy):
    """start(): a new state and a jitted step that donates it, as a program makes them."""
    optimizer = training.make_optimizer(training.warm_up_schedule(1e-2, 3), clip_norm=1.0)
    step = training.make_train_step(
        toy.apply, optimizer, training.ramp_up_decay(1e4, 8), num_classes=toy.num_classes
    )
    step = jax.jit(step, donate_argnums=0)
    return lambda: (training.init_state(toy.init_params(), optimizer), step)


def fit(state, step, batch_fn, num_steps, **options):
    return training.fit(
        state, step, batch_fn, jax.random.key(11), num_steps, progress=False, **options
    )


def written(folder, *run, **options):
    """Return the rows of metrics.csv after a run."""
    writer = training.MetricWriter(folder)
    fit(*run, writer=writer, **options)
    writer.close()
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_stopping_and_resuming_is_exact(toy, start, tmp_path):
    state, step = start()
    straight = fit(state, step, toy.make_batch, 6)
    with training.Checkpointer(tmp_path) as checkpointer:
        state, step = start()
        fit(state, step, toy.make_batch, 3, checkpointer=checkpointer, checkpoint_every=2)
    with training.Checkpointer(tmp_path) as checkpointer:
        abstract = jax.eval_shape(lambda: start()[0])
        state, meta = checkpointer.restore_latest(abstract)
        assert meta["step"] == 3
        resumed = fit(state, step, toy.make_batch, 6, checkpointer=checkpointer)
        assert checkpointer.latest_step() == 6
    toy.assert_equal(resumed, straight)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends_the_run_after_the_step_under_way(toy, start, tmp_path, number):
    def batch_fn(step):
        if step == 1:
            os.kill(os.getpid(), number)
        return toy.make_batch(step)

    handlers = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
    state, step = start()
    with training.Checkpointer(tmp_path) as checkpointer:
        stopped = fit(state, step, batch_fn, 6, checkpointer=checkpointer, meta={"name": "toy"})
        assert int(stopped.step) == 2
        restored, meta = checkpointer.restore_latest(stopped)
    assert meta == {"name": "toy", "step": 2, "num_skipped": 0}
    toy.assert_equal(restored, stopped)
    assert handlers == [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]


def test_a_finished_run_returns_at_once(toy, start):
    state, step = start()
    done = fit(state, step, toy.make_batch, 1)
    assert fit(done, step, lambda step: pytest.fail("no batch is needed"), 1) is done


def test_metrics_are_window_averages(toy, start, tmp_path):
    state, step = start()
    losses = []

    def recording(state, batch, key):
        state, metrics = step(state, batch, key)
        losses.append(float(metrics["loss"]))
        return state, metrics

    rows = written(
        tmp_path, state, recording, toy.make_batch, 5, log_every=2, global_batch_size=8,
        peak_images_per_second=1000.0,
    )
    assert [row["step"] for row in rows] == ["2", "4", "5"]
    expected = [np.mean(losses[:2]), np.mean(losses[2:4]), losses[4]]
    np.testing.assert_allclose([float(row["loss"]) for row in rows], expected, rtol=1e-6)
    for row in rows:
        assert float(row["images_per_second"]) > 0
        assert float(row["mfu"]) == pytest.approx(float(row["images_per_second"]) / 1000, rel=1e-9)


def test_the_progress_bar_shows_loss_and_speed(toy, start, capsys):
    state, step = start()
    training.fit(
        state, step, toy.make_batch, jax.random.key(0), 2, log_every=1, global_batch_size=8
    )
    shown = capsys.readouterr().err
    assert "loss" in shown
    assert "images/s" in shown


def test_bad_intervals_are_refused(toy, start):
    state, step = start()
    with pytest.raises(ValueError, match="log_every is 0"):
        fit(state, step, toy.make_batch, 1, log_every=0)


def test_hooks_run_at_multiples_and_at_the_end(toy, start):
    seen = []

    def record(name):
        return lambda state, step: seen.append((name, step, state))

    hooks = [training.Hook(2, record("a")), training.Hook(3, record("b")), training.Hook(0, pytest.fail)]
    fit(*start(), toy.make_batch, 5, hooks=hooks, portable=lambda state: int(state.step))
    expected = [("a", 2), ("b", 3), ("a", 4), ("a", 5), ("b", 5)]
    assert seen == [(name, step, step) for name, step in expected]  # what they see is portable


def test_scalars_of_hooks_are_written_in_the_rows_of_the_losses(toy, start, tmp_path):
    hooks = [
        training.Hook(3, lambda state, step: {"eval_loss": 10.0 * step}),
        training.Hook(4, lambda state, step: {"score": 0.5 * step}),
        training.Hook(1, lambda state, step: None),
    ]
    rows = written(tmp_path, *start(), toy.make_batch, 6, hooks=hooks, log_every=2)
    filled = {row["step"]: (bool(row["loss"]), row["eval_loss"], row["score"]) for row in rows}
    assert len(filled) == len(rows)
    assert filled == {
        "2": (True, "", ""),
        "3": (False, "30.0", ""),  # between two windows
        "4": (True, "", "2.0"),
        "6": (True, "60.0", "3.0"),
    }


def test_time_in_hooks_does_not_count_as_time_of_steps(toy, start, tmp_path):
    hook = training.Hook(1, lambda state, step: time.sleep(0.1))
    begin = time.perf_counter()
    rows = written(
        tmp_path, *start(), toy.make_batch, 5, hooks=[hook], log_every=2, global_batch_size=8
    )
    elapsed = time.perf_counter() - begin
    counted = sum(8 * n / float(row["images_per_second"]) for n, row in zip((2, 2, 1), rows, strict=True))
    assert 0 < counted < elapsed - 5 * 0.1  # between steps and after a window was written


def broken(toy, steps):
    """Return the toy's batches, with losses that are not finite at some steps."""

    def batch_fn(step):
        batch = toy.make_batch(step)
        if step in steps:
            batch["x_0"][0] = np.nan
        return batch

    return batch_fn


def test_steps_skipped_in_a_row_end_the_run(toy, start, tmp_path):
    """The skipped steps span two windows; the last checkpoint has the parameters from before them."""
    good = fit(*start(), toy.make_batch, 3)
    options = dict(log_every=2, checkpoint_every=1, max_skipped_in_row=3)
    with training.Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(FloatingPointError, match=r"not finite in 3 steps in a row, up to about step 6\."):
            fit(*start(), broken(toy, {3, 4, 5, 6}), 9, checkpointer=checkpointer, **options)
        last, meta = checkpointer.restore_latest(jax.eval_shape(lambda: start()[0]))
    assert meta == {"step": 5, "num_skipped": 2}
    for name in ("params", "ema_params", "opt_state"):
        toy.assert_equal(getattr(last, name), getattr(good, name))


@pytest.mark.parametrize(("steps", "limit"), [({0, 1, 3, 4}, 3), ({0, 1, 2, 3, 4}, None)])
def test_skipped_steps_that_are_not_too_many_in_a_row_are_counted(toy, start, steps, limit):
    state = fit(*start(), broken(toy, steps), 6, log_every=2, max_skipped_in_row=limit)
    assert (int(state.step), int(state.num_skipped)) == (6, len(steps))
