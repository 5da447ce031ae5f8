"""The table of metrics and TensorBoard files."""

import csv
import math

import numpy as np
import pytest
from tensorboardX.proto import event_pb2

from gmflow_jax import training
from tests.helpers import file_limit


def step_metrics(loss, sums=(0, 0, 0, 0), counts=(0, 0, 0, 0), skipped=0, num_skipped=0):
    return {
        "loss": np.float32(loss), "grad_norm": np.float32(2 * loss), "ema_decay": np.float32(0.9),
        "skipped": np.int32(skipped), "num_skipped": np.int32(num_skipped),
        "time_bin_sum": np.asarray(sums, np.float32),
        "time_bin_count": np.asarray(counts, np.float32),
    }


def read_table(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_averages_leave_out_skipped_steps_and_empty_bins():
    window = [
        step_metrics(1.0, sums=(3, 0, 0, 4), counts=(1, 0, 0, 1)),
        step_metrics(np.nan, skipped=1, num_skipped=1),
        step_metrics(3.0, sums=(5, 6, 0, 0), counts=(3, 1, 0, 0), num_skipped=1),
    ]
    assert training.average_metrics(window) == pytest.approx({
        "loss": 2.0, "grad_norm": 4.0, "ema_decay": 0.9, "num_skipped": 1.0,
        "loss_t_0.00_0.25": 2.0, "loss_t_0.25_0.50": 6.0, "loss_t_0.75_1.00": 4.0,
    })


def test_a_window_of_skipped_steps_has_no_loss():
    result = training.average_metrics([step_metrics(np.inf, skipped=1, num_skipped=1)])
    assert math.isnan(result["loss"])
    assert result["num_skipped"] == 1


def test_metrics_may_appear_later(tmp_path):
    writer = training.MetricWriter(tmp_path)
    writer.write_scalars(1, {"loss": 0.5})
    writer.write_scalars(2, {"loss": 0.25, "accuracy": 1.0})
    writer.close()
    assert read_table(tmp_path) == [
        {"step": "1", "loss": "0.5", "accuracy": ""},
        {"step": "2", "loss": "0.25", "accuracy": "1.0"},
    ]


def test_a_restart_from_an_earlier_checkpoint_leaves_no_step_twice(tmp_path):
    writer = training.MetricWriter(tmp_path)
    for step in range(1, 6):
        writer.write_scalars(step, {"loss": float(step)})
    writer.close()
    writer = training.MetricWriter(tmp_path, resume_step=3)
    writer.write_scalars(4, {"loss": 40.0})
    writer.flush()
    rows = [(row["step"], row["loss"]) for row in read_table(tmp_path)]
    assert rows == [("1", "1.0"), ("2", "2.0"), ("3", "3.0"), ("4", "40.0")]
    writer.close()


def test_a_row_cut_short_by_a_kill_is_dropped(tmp_path):
    (tmp_path / "metrics.csv").write_text("step,loss\n1,1.0\n2,1.")
    training.MetricWriter(tmp_path, resume_step=5).close()
    assert [row["step"] for row in read_table(tmp_path)] == ["1"]


def test_tensorboard_files_hold_the_scalars(tmp_path):
    writer = training.MetricWriter(tmp_path)
    writer.write_scalars(7, {"loss": 0.5})
    writer.close()
    (path,) = tmp_path.glob("events.out.tfevents.*")
    values = [
        (event.step, value.tag, value.simple_value)
        for event in read_events(path.read_bytes()) for value in event.summary.value
    ]
    assert values == [(7, "loss", 0.5)]


def read_events(data):
    # A record is: length (8 bytes), its checksum (4), the event, its checksum (4).
    while data:
        length = int.from_bytes(data[:8], "little")
        yield event_pb2.Event.FromString(data[12 : 12 + length])
        data = data[16 + length :]


def test_a_table_of_another_program_is_refused(tmp_path):
    (tmp_path / "metrics.csv").write_text("name,age\nx,1\n")
    with pytest.raises(ValueError, match="not a table of metrics"):
        training.MetricWriter(tmp_path)


@pytest.mark.parametrize("names", [["a"], [f"a{i}" for i in range(40)]])
def test_a_full_disk_is_reported_by_name(tmp_path, names):
    """Whichever file is full first; a thread of TensorBoard's would have waited forever."""
    writer = training.MetricWriter(tmp_path)
    with file_limit(20_000):
        with pytest.raises(OSError, match="File too large") as caught:
            for step in range(10_000):
                writer.write_scalars(step, dict.fromkeys(names, 0.0))
        assert str(caught.value.filename).startswith(str(tmp_path))
    writer.close()
