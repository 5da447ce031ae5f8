import csv
import os
import signal

import jax
import numpy as np
import pytest

from gmflow_jax import training


@pytest.fixture(scope="module")
def start(toy):
    """Builds what a program builds: a fresh state and a jitted step that donates it."""
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

    writer = training.MetricWriter(tmp_path)
    fit(state, recording, toy.make_batch, 5, writer=writer, log_every=2, global_batch_size=8)
    writer.close()
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "5"]
    expected = [np.mean(losses[:2]), np.mean(losses[2:4]), losses[4]]
    np.testing.assert_allclose([float(row["loss"]) for row in rows], expected, rtol=1e-6)
    assert all(float(row["images_per_second"]) > 0 for row in rows)


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
