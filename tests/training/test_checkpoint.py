"""Checkpoints and snapshots are restored exactly, and damaged ones are named."""

import dataclasses
import errno

import jax
import jax.numpy as jnp
import pytest

from gmflow_jax import training
from tests.helpers import file_limit


@pytest.fixture
def state(toy):
    optimizer = training.make_optimizer(training.warm_up_schedule(1e-3, 5), clip_norm=1.0)
    state = training.init_state(toy.init_params(), optimizer, ema_params=toy.init_params(seed=1))
    keys = iter(jax.random.split(jax.random.key(0), 100))
    opt_state = jax.tree.map(
        lambda x: jnp.int32(3) if x.dtype == jnp.int32 else jax.random.normal(next(keys), x.shape),
        state.opt_state,
    )
    return dataclasses.replace(
        state, opt_state=opt_state, step=jnp.int32(4), num_skipped=jnp.int32(1)
    )


def test_a_state_comes_back_exactly(toy, state, tmp_path):
    config = {"name": "toy", "sizes": [1, 2], "rate": None}
    with training.Checkpointer(tmp_path / "checkpoints") as checkpointer:
        assert checkpointer.latest_step() is None
        assert checkpointer.restore_latest(state) is None
        checkpointer.save_state(state, config)
    abstract = jax.eval_shape(lambda: state)
    with training.Checkpointer(tmp_path / "checkpoints") as checkpointer:
        assert checkpointer.latest_step() == 4
        restored, meta = checkpointer.restore_latest(abstract)
    toy.assert_equal(restored, state)
    assert meta == {**config, "step": 4, "num_skipped": 1}


def test_the_average_is_restored_alone(toy, state, tmp_path):
    with training.Checkpointer(tmp_path / "c") as checkpointer:
        checkpointer.save_state(state, {"name": "toy"})
        checkpointer.save_state(dataclasses.replace(state, step=jnp.int32(5), ema_params=state.params))
        toy.assert_equal(checkpointer.restore_ema(state.ema_params), state.params)
        toy.assert_equal(checkpointer.restore_ema(state.ema_params, step=4), state.ema_params)
        assert checkpointer.read_meta(4) == {"name": "toy", "step": 4, "num_skipped": 1}


def test_restoring_onto_other_devices_is_exact(toy, state, tmp_path):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))

    def sharding(x):
        split = x.ndim > 0 and x.shape[-1] % 2 == 0
        return jax.NamedSharding(mesh, jax.P(*[None] * (x.ndim - 1), "data") if split else jax.P())

    sharded = jax.tree.map(lambda x: jax.device_put(x, sharding(x)), state)
    with training.Checkpointer(tmp_path / "c") as checkpointer:
        checkpointer.save_state(sharded)
        single, _ = checkpointer.restore_latest(state)
        again, _ = checkpointer.restore_latest(sharded)
    toy.assert_equal(single, state)
    toy.assert_equal(again, state)
    jax.tree.map(lambda x, y: x.sharding.is_equivalent_to(y.sharding, x.ndim) or pytest.fail(),
                 again, sharded)


def test_only_the_newest_are_kept_and_a_repeated_step_is_left_alone(toy, state, tmp_path,
                                                                    monkeypatch):
    monkeypatch.chdir(tmp_path)
    with training.Checkpointer("relative/c", keep=2) as checkpointer:
        for step in (1, 2, 3, 3):
            checkpointer.save_state(dataclasses.replace(state, step=jnp.int32(step)))
    kept = sorted(path.name for path in (tmp_path / "relative/c").iterdir())
    assert kept == ["2", "3"]


def test_states_of_round_steps_are_kept_too(state, tmp_path):
    with training.Checkpointer(tmp_path, keep=1, keep_every=3) as checkpointer:
        for step in range(1, 6):
            checkpointer.save_state(dataclasses.replace(state, step=jnp.int32(step)))
    with training.Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.steps() == [3, 5]


@pytest.mark.parametrize("saved", [0, 2])
def test_power_averages_come_back_exactly(toy, state, tmp_path, saved):
    averages = tuple(toy.init_params(seed=seed) for seed in range(2, 2 + saved))
    state = dataclasses.replace(state, power_averages=averages)
    with training.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save_state(state)
        restored, _ = checkpointer.restore_latest(state)
        toy.assert_equal(restored, state)
        other = dataclasses.replace(state, power_averages=(toy.init_params(),))
        with pytest.raises(ValueError, match="configuration it was trained with"):
            checkpointer.restore_latest(other)


def test_a_leftover_of_a_killed_save_is_ignored(state, tmp_path):
    (tmp_path / "7.orbax-checkpoint-tmp").mkdir()
    with training.Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.latest_step() is None


def test_a_damaged_checkpoint_is_named(state, tmp_path):
    with training.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save_state(state)
    for path in (tmp_path / "4/params").rglob("*"):
        if path.is_file():
            path.write_bytes(b"damaged")
    with (
        training.Checkpointer(tmp_path) as checkpointer,
        pytest.raises(ValueError, match=r"step 4 in .* damaged"),
    ):
        checkpointer.restore_latest(state)


def test_a_numbered_folder_without_a_checkpoint_is_named(state, tmp_path):
    (tmp_path / "12").mkdir()
    (tmp_path / "12/photo.txt").write_text("no checkpoint")
    with training.Checkpointer(tmp_path) as checkpointer, pytest.raises(ValueError, match="12"):
        checkpointer.restore_ema(state.ema_params)


def test_a_model_of_another_shape_is_refused(state, tmp_path):
    with training.Checkpointer(tmp_path) as checkpointer:
        checkpointer.save_state(state)
        other = jax.tree.map(lambda x: jnp.zeros((*x.shape[:-1], 5)), state.ema_params)
        with pytest.raises(ValueError, match="another shape"):
            checkpointer.restore_ema(other)


def test_bad_arguments_are_refused(state, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="is a file"):
        training.Checkpointer(tmp_path / "file")
    with pytest.raises(ValueError, match="at least 1"):
        training.Checkpointer(tmp_path / "c", keep=0)
    with training.Checkpointer(tmp_path / "c") as checkpointer:
        with pytest.raises(ValueError, match="json"):
            checkpointer.save_state(state, {"x": {1, 2}})
        with pytest.raises(ValueError, match="no checkpoint"):
            checkpointer.read_meta()


@pytest.fixture
def trees():
    return {"a": {"w": jnp.arange(6.0).reshape(2, 3)}, "b": {"w": jnp.full(4, 2, jnp.int32)}}


def test_snapshots_keep_the_newest_and_those_of_round_steps(trees, tmp_path):
    with training.Snapshots(tmp_path / "some", keep=2, keep_every=3) as some, training.Snapshots(
        tmp_path / "all"
    ) as everything:
        for step in range(1, 8):
            some.save(step, trees, {})
            everything.save(step, trees, {})
        everything.save(7, {"c": trees["a"]}, {"again": True})  # already saved
    with training.Snapshots(tmp_path / "some") as some, training.Snapshots(tmp_path / "all") as everything:
        assert some.steps() == [3, 6, 7]
        assert everything.steps() == [1, 2, 3, 4, 5, 6, 7]
        assert everything.latest_step() == 7
        assert everything.read_meta() == {}


def test_each_tree_of_a_snapshot_is_restored_alone(toy, trees, tmp_path):
    def times(number):
        return jax.tree.map(lambda x: number * x, trees)

    with training.Snapshots(tmp_path) as snapshots:
        for step in (2, 5):
            snapshots.save(step, times(step), {"step": step, "widths": [0.1]})
    with training.Snapshots(tmp_path) as snapshots:
        found = snapshots.restore(b=trees["b"])
        assert found.keys() == {"b", "meta"}
        toy.assert_equal(found["b"], times(5)["b"])
        assert found["meta"] == {"step": 5, "widths": [0.1]}
        abstract = jax.eval_shape(lambda: trees)
        found = snapshots.restore(2, **abstract)
        toy.assert_equal({name: found[name] for name in trees}, times(2))
        with pytest.raises(ValueError, match=r"no checkpoint of step 3 \(it has \[2, 5\]\)"):
            snapshots.restore(3, a=trees["a"])
        with pytest.raises(ValueError, match=r"step 5 in .* could not be read as c, meta"):
            snapshots.restore(c=trees["a"])


def test_a_snapshot_needs_plain_meta(trees, tmp_path):
    with pytest.raises(ValueError, match="at least 1"):
        training.Snapshots(tmp_path / "s", keep=0)
    with training.Snapshots(tmp_path / "s") as snapshots:
        with pytest.raises(ValueError, match="cannot be written as json"):
            snapshots.save(1, trees, {"array": jnp.ones(2)})
        assert snapshots.steps() == []


def test_what_is_no_step_is_ignored_and_left_alone(toy, trees, tmp_path):
    """Files and folders that file browsers, NAS systems, NFS and people leave, also in a snapshot."""
    with training.Snapshots(tmp_path, keep=2) as snapshots:
        snapshots.save(3, trees, {})
    files = [".DS_Store", "._3", "Thumbs.db", ".nfs0000000123", "007", "9", "-4", "notes.txt"]
    folders = ["@eaDir", "lost+found", ".snapshot", "3 copy", "12.bak", "best"]
    for folder in (tmp_path, tmp_path / "3", tmp_path / "3/a", tmp_path / "3/meta"):
        for name in files:
            (folder / name).write_text("")
        for name in folders:
            (folder / name).mkdir()
    with training.Snapshots(tmp_path, read_only=True) as snapshots:
        assert snapshots.steps() == [3]
        toy.assert_equal(snapshots.restore(a=trees["a"])["a"], trees["a"])
    with training.Snapshots(tmp_path, keep=2) as snapshots:
        for step in (4, 5):
            snapshots.save(step, trees, {})
        assert snapshots.steps() == [4, 5]
    assert {entry.name for entry in tmp_path.iterdir()} == {"4", "5", *files, *folders}


def test_a_full_disk_is_reported_with_what_is_kept(toy, trees, tmp_path):
    large = {"a": {"w": jax.random.normal(jax.random.key(0), (100_000,))}}
    with training.Snapshots(tmp_path) as snapshots:
        snapshots.save(1, trees, {})
        snapshots.wait()
        with file_limit(200_000):
            snapshots.save(2, large, {})
            said = "step 2 could not be written .*File too large.* newest complete one there is of step 1"
            with pytest.raises(OSError, match=said) as caught:
                snapshots.wait()
        assert caught.value.errno == errno.EFBIG
    with training.Snapshots(tmp_path) as snapshots:
        assert snapshots.steps() == [1]
        toy.assert_equal(snapshots.restore(a=trees["a"])["a"], trees["a"])
        snapshots.save(2, large, {})
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["1", "2"]
