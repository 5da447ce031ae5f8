"""Metrics and snapshots in a bucket, on a real server on loopback."""

import csv
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint import CheckpointManager
from orbax.checkpoint.type_handlers import get_ts_context

from gmflow_jax import training
from gmflow_jax.training import _metrics


def read_table(folder):
    return list(csv.DictReader((folder / "metrics.csv").read_text().splitlines()))


def test_a_table_in_a_bucket_is_replaced_as_a_whole(bucket):
    """A writer that is dropped without `close`, as by a kill, loses what came after the last forced flush."""
    writer = training.MetricWriter(bucket)
    writer.write_scalars(1, {"loss": 0.5})
    writer.flush()
    assert not bucket.exists()
    writer.write_scalars(2, {"loss": 0.25, "accuracy": 1.0})
    writer.flush(force=True)
    names = sorted(path.name for path in bucket.iterdir())
    assert len(names) == 2 and names[0].startswith("events.out.tfevents.") and names[1] == "metrics.csv"
    assert read_table(bucket) == [
        {"step": "1", "loss": "0.5", "accuracy": ""}, {"step": "2", "loss": "0.25", "accuracy": "1.0"},
    ]  # fmt: skip
    writer.write_scalars(3, {"loss": 0.125})
    writer.flush()
    writer = training.MetricWriter(bucket, resume_step=1)
    assert [row["step"] for row in read_table(bucket)] == ["1", "2"]
    writer.write_scalars(2, {"loss": 9.0, "extra": 2.0})
    writer.close()
    assert [(row["step"], row["loss"], row["extra"]) for row in read_table(bucket)] == [
        ("1", "0.5", ""), ("2", "9.0", "2.0"),
    ]  # fmt: skip
    (bucket / "other" / "metrics.csv").write_text("name\nx\n")
    with pytest.raises(ValueError, match=r"gs://.*/other/metrics.csv has the columns \['name'\]"):
        training.MetricWriter(bucket / "other")


def test_rows_are_uploaded_after_some_time(bucket, monkeypatch):
    monkeypatch.setattr(_metrics, "_UPLOAD_SECONDS", 0.0)
    writer = training.MetricWriter(bucket)
    writer.write_scalars(1, {"loss": 0.5})
    writer.flush()  # 30 s later
    assert len(read_table(bucket)) == 1
    writer.close()


@pytest.fixture
def trees():
    return {"a": {"w": jnp.arange(6.0).reshape(2, 3)}}


@pytest.fixture
def four(trees, bucket):
    """A folder in a bucket with snapshots of the steps 2 and 4, of which the last was not completed."""
    with training.Snapshots(bucket) as snapshots:
        for step in (2, 4):
            snapshots.save(step, trees, {"step": step})
    (bucket / "4" / "commit_success.txt").unlink()
    return bucket


def test_snapshots_in_a_bucket_are_kept_and_come_back(toy, trees, bucket):
    (bucket / "best" / "notes.txt").write_text("not a step")
    (bucket / "7").write_text("not a folder")
    with training.Snapshots(str(bucket), keep=2, keep_every=3) as snapshots:
        for step in range(1, 6):
            snapshots.save(step, jax.tree.map(lambda x, step=step: step * x, trees), {"step": step})
        assert snapshots.steps() == [3, 4, 5]
    assert sorted(path.name for path in bucket.iterdir()) == ["3", "4", "5", "7", "best"]
    with training.Snapshots(bucket, read_only=True) as snapshots:
        assert snapshots.steps() == [3, 4, 5] and snapshots.read_meta() == {"step": 5}
        toy.assert_equal(snapshots.restore(3, a=trees["a"])["a"], jax.tree.map(lambda x: 3 * x, trees["a"]))
        with pytest.raises(ValueError, match="another shape"):
            snapshots.restore(a={"w": jnp.zeros(5)})


def test_an_unfinished_snapshot_in_a_bucket_is_not_seen_and_then_removed(trees, four):
    with training.Snapshots(four, read_only=True) as snapshots:
        assert snapshots.steps() == [2] and (four / "4").is_dir()
    assert get_ts_context()["gcs_request_retries"].to_json() == {"max_retries": 8}  # not 32
    with training.Snapshots(four) as snapshots:
        assert snapshots.steps() == [2] and not (four / "4").exists()
        snapshots.save(4, trees, {})
        snapshots.wait()
        assert (four / "4" / "commit_success.txt").exists()


def test_a_bucket_that_cannot_hold_snapshots_is_refused(trees, bucket_url):
    with pytest.raises(ValueError, match="Orbax writes them to file systems and to gs:// only"):
        training.Snapshots("memory://bucket/run")
    said = r"step 1 could not be written\. gs://missing/run: there is no such bucket"
    with pytest.raises(OSError, match=said), training.Snapshots("gs://missing/run") as snapshots:
        assert snapshots.latest_step() is None
        snapshots.save(1, trees, {})


def test_a_bucket_that_fails_while_it_is_read_is_no_damaged_checkpoint(trees, four, monkeypatch):
    from gcsfs.retry import HttpError

    def fail(*arguments, **options):
        raise RuntimeError("wrapped") from HttpError({"code": 503, "message": "unavailable"})

    with training.Snapshots(four, read_only=True) as snapshots:
        monkeypatch.setattr(CheckpointManager, "restore", fail)
        with pytest.raises(OSError, match="could not be reached"):
            snapshots.restore(a=trees["a"])


def test_the_rows_up_to_a_checkpoint_are_uploaded_before_it(bucket):
    seen = []

    class Watched(training.Checkpointer):
        def save_state(self, state, meta=None):
            seen.append((int(state.step), [int(row["step"]) for row in read_table(bucket)]))
            super().save_state(state, meta)

    def step(state, batch, key):
        counts = {"time_bin_sum": np.zeros(4), "time_bin_count": np.zeros(4)}
        metrics = {"loss": np.float32(1), "skipped": np.int32(0), "num_skipped": np.int32(0), **counts}
        return dataclasses.replace(state, step=state.step + 1), metrics

    weights = {"w": jnp.ones(2)}
    state = training.TrainState(weights, weights, weights, jnp.int32(0), jnp.int32(0))
    writer = training.MetricWriter(bucket)
    with Watched(bucket / "checkpoints") as checkpointer:
        training.fit(
            state, step, lambda step: None, jax.random.key(0), 5, writer=writer, checkpointer=checkpointer,
            log_every=1, checkpoint_every=2, progress=False,
        )  # fmt: skip
    assert seen == [(2, [1, 2]), (4, [1, 2, 3, 4]), (5, [1, 2, 3, 4, 5])]
    writer.close()
