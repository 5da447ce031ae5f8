"""A run that is killed again and again equals one that never was: losses, parameters, averages, optimiser."""

import csv
import multiprocessing
import os
import random
import signal
import time

import jax
import numpy as np
import pytest

from experiments import runs
from gmflow_jax import training

_NUM_KILLS = 10


def train(workdir, arguments, devices=1):
    """What `python -m experiments.train` does, in a child process."""
    import sys

    os.environ.pop("XLA_FLAGS", None)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_disable_most_optimizations", True)
    jax.config.update("jax_compilation_cache_dir", str(workdir.parent / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    with open(workdir.parent / "output.txt", "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    from experiments import cli, train

    sys.argv = ["train", f"--workdir={workdir}", *arguments]
    cli.run(train.main)


@pytest.fixture(scope="module")
def start():
    """start(workdir, *arguments, devices=1): a process that trains a tiny network, its imports already made."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.train"])

    def start(workdir, *arguments, devices=1):
        config = (
            "--config=experiments/configs/digits.py", "--config.network.hidden_size=16",
            "--config.network.depth=1", "--config.network.num_heads=2", "--config.num_steps=60",
            "--config.optimizer.warm_up_steps=5", "--config.batch_size=16", "--config.log_every=1",
            "--config.checkpoint_every=4", "--config.eval_every=10", "--config.post_hoc_ema.stds=(0.1,)",
            "--config.post_hoc_ema.every=20", "--noreport",
        )  # fmt: skip
        workdir.parent.mkdir(exist_ok=True)
        process = context.Process(target=train, args=(workdir, [*config, *arguments], devices))
        process.start()
        return process

    return start


@pytest.fixture(scope="module")
def undisturbed(start, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(start(workdir), workdir)
    return workdir


def finish(process, workdir):
    process.join(300)
    assert process.exitcode == 0, (workdir.parent / "output.txt").read_text()[-2000:]


def read_losses(workdir):
    """All columns that training decides, by step."""
    with (workdir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def last_state(workdir):
    config = runs.read_config(workdir)
    init = runs.make_init(config, runs.make_optimizer(config))
    with training.Checkpointer(workdir / "checkpoints") as checkpointer:
        return checkpointer.restore_latest(jax.eval_shape(init))[0]


def assert_equal(workdir, expected):
    assert read_losses(workdir) == read_losses(expected)
    states = last_state(workdir), last_state(expected)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), *states)
    for kept in ("best", "post_hoc", "checkpoints"):
        names = {folder.name for folder in (expected / kept).iterdir()}
        assert names and {folder.name for folder in (workdir / kept).iterdir() if folder.name.isdigit()} == names


def test_a_run_killed_at_random_moments_is_bit_exact(start, undisturbed, tmp_path):
    workdir, rng = tmp_path / "killed" / "run", random.Random(0)
    during_save = 0
    for kill in range(_NUM_KILLS):
        process = start(workdir)
        rows = count_rows(workdir)
        while process.is_alive() and count_rows(workdir) <= rows:
            time.sleep(0.002)
        if kill % 2:  # in the midst of a save, as its temporary folder shows
            while process.is_alive() and not list(workdir.glob("checkpoints/*checkpoint-tmp*")):
                pass
        else:
            time.sleep(rng.uniform(0, 0.3))
        assert process.is_alive(), "the run ended before it could be killed"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        during_save += bool(list(workdir.glob("checkpoints/*checkpoint-tmp*")))
    assert during_save
    finish(start(workdir), workdir)
    assert_equal(workdir, undisturbed)


def count_rows(workdir):
    path = workdir / "metrics.csv"
    return path.read_text().count("\n") if path.exists() else 1


def test_sigterm_saves_and_ends_cleanly(start, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir)
    while process.is_alive() and count_rows(workdir) < 6:
        time.sleep(0.002)
    process.terminate()
    finish(process, workdir)
    steps = int(last_state(workdir).step)
    assert 5 <= steps < 60
    assert "the same command resumes" in (tmp_path / "output.txt").read_text().lower()
    finish(start(workdir), workdir)
    assert_equal(workdir, undisturbed)


@pytest.mark.parametrize("arguments", [("--config.parallel=pmap",), ("--config.mesh.fsdp=2",)])
def test_a_run_resumed_on_other_devices_is_equal_to_rounding(start, undisturbed, tmp_path, arguments):
    """Begun on one device, resumed on four, with the gradient accumulated and data read ahead."""
    workdir = tmp_path / "run"
    process = start(workdir)
    while process.is_alive() and count_rows(workdir) < 6:
        time.sleep(0.002)
    process.terminate()
    finish(process, workdir)
    faster = ("--config.num_microbatches=2", "--config.data.num_threads=2", "--config.eval_every=0")
    finish(start(workdir, *arguments, *faster, devices=4), workdir)
    ours, theirs = ([float(row["loss"]) for row in read_losses(w)] for w in (workdir, undisturbed))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)
