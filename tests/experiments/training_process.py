"""Start programs in processes of their own, among them `experiments.train` on a tiny network."""

import csv
import importlib
import multiprocessing
import os
import random
import signal
import socket
import sys
import time

import jax
import numpy as np

from experiments.runs.folder import read_config
from experiments.training import steps
from gmflow_jax import training
from gmflow_jax._files import is_address

NUM_STEPS = 40
_NUM_KILLS = 10
_CONFIG = (
    "--config=experiments/configs/digits.py", "--config.network.hidden_size=16", "--config.network.depth=1",
    "--config.network.num_heads=2", f"--config.num_steps={NUM_STEPS}", "--config.optimizer.warm_up_steps=5",
    "--config.batch_size=16", "--config.log_every=1", "--config.checkpoint_every=5",
    "--config.eval_every=10", "--config.post_hoc_ema.stds=(0.1,)", "--config.post_hoc_ema.every=20",
    "--noreport",
)  # fmt: skip

TINY_PHOTOGRAPHS = (  # a run on latents of 8 x 8 pixels
    "--config=experiments/configs/photographs.py", "--config.network.input_size=8",
    "--config.network.hidden_size=16", "--config.network.depth=1", "--config.network.num_heads=2",
    "--config.network.log_std_dim=8", "--config.spectrum.base_size=8", "--config.batch_size=8",
    "--config.log_every=2", "--config.eval_every=2", "--config.eval_batches=1",
)  # fmt: skip

_context = multiprocessing.get_context("forkserver")
# The server imports these modules once for all processes.
_context.set_forkserver_preload(
    ["experiments.training.fit", "experiments.scoring.run_report", "sklearn.datasets"]
)


def start(workdir, *arguments, devices=1, folder=None, environment=None):
    """Start a process that trains, or resumes training, in `workdir`.

    Args:
      workdir: a path, or an address.
      *arguments: further flags.
      devices: number of devices.
      folder: local folder of the output; needed for an address.
      environment: variables of the process.
    """
    folder = folder or workdir.parent
    folder.mkdir(exist_ok=True)
    flags = (f"--workdir={workdir}", *_CONFIG, *arguments)
    return start_program(folder, "train", *flags, devices=devices, environment=environment)


def start_program(folder, name, *arguments, devices=1, environment=None):
    """Start a program in a process whose output goes to output.txt in the folder."""
    process = _context.Process(target=_run, args=(folder, name, arguments, devices, environment or {}))
    process.start()
    return process


def _run(folder, name, arguments, devices, environment):
    os.environ.update(environment)  # that of this process is the environment in which the server started
    os.environ.pop("XLA_FLAGS", None)
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", devices)
    jax.config.update("jax_disable_most_optimizations", True)  # it compiles for longer than it runs
    jax.config.update("jax_compilation_cache_dir", str(folder / "cache"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    with open(folder / "output.txt", "a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    from experiments.common import cli

    sys.argv = [name, *arguments]
    cli.run(importlib.import_module(f"experiments.{name}").main)


def joined():
    """Return the flags of each of two processes that form a cluster."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    common = (f"--coordinator_address=localhost:{port}", "--num_processes=2")
    return [(*common, f"--process_id={i}") for i in range(2)]


def finish(process, workdir):
    """Wait for a process, whose output is beside `workdir`, and assert that it succeeded."""
    process.join(300)
    assert process.exitcode == 0, output(workdir)[-2000:]


def kill_repeatedly(start_again, workdir, local=None):
    """Start a run ten times, and kill it at random moments, every second time in the midst of a save.

    Args:
      start_again: function that starts a process.
      workdir: a path, or an address.
      local: a local path beside output.txt; by default `workdir`.
    """
    rng, during_save = random.Random(0), 0
    for kill in range(_NUM_KILLS):
        process = start_again()
        wait_for_rows(process, workdir, count_rows(workdir))
        if kill % 2:
            while process.is_alive() and not being_saved(workdir):
                pass
        else:
            time.sleep(rng.uniform(0, 0.3))
        said = output(local or workdir)[-1000:]
        assert process.is_alive(), f"the run ended before it could be killed: {said}"
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        during_save += being_saved(workdir)
    assert during_save


def being_saved(workdir):
    """Return whether a checkpoint has been begun and not completed."""
    if not is_address(workdir):
        return any(workdir.glob("checkpoints/*checkpoint-tmp*"))
    folder = f"{workdir.path}/checkpoints/"
    names = [name.removeprefix(folder).split("/") for name in workdir.fs.find(folder)]
    return {step for step, *_ in names} != {step for step, *rest in names if rest == ["commit_success.txt"]}


def output(workdir):
    return (workdir.parent / "output.txt").read_text()


def count_rows(workdir):
    path = workdir / "metrics.csv"
    return path.read_text().count("\n") if path.exists() else 1


def wait_for_rows(process, workdir, count):
    """Wait until the table of metrics has more than `count` lines, the header included."""
    while process.is_alive() and count_rows(workdir) <= count:
        time.sleep(0.002)


def read_losses(workdir):
    """Return the columns of the table of metrics that do not depend on time, by step."""
    rows = csv.DictReader((workdir / "metrics.csv").read_text().splitlines())
    return [{k: v for k, v in row.items() if k != "images_per_second"} for row in rows]


def last_state(workdir):
    config = read_config(workdir)
    init = steps.make_init(config, steps.make_optimizer(config))
    with training.Checkpointer(workdir / "checkpoints") as checkpointer:
        return checkpointer.restore_latest(jax.eval_shape(init))[0]


def assert_equal(workdir, expected):
    """Assert that losses, states and kept checkpoints of two runs are equal, bit by bit."""
    assert read_losses(workdir) == read_losses(expected)
    states = last_state(workdir), last_state(expected)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), *states)
    for kept in ("best", "post_hoc", "checkpoints"):
        ours, theirs = (
            sorted(path.name for path in (w / kept).iterdir() if path.name.isdecimal())
            for w in (workdir, expected)
        )
        assert ours == theirs != []


def assert_close(workdir, expected, rtol):
    ours, theirs = ([float(row["loss"]) for row in read_losses(w)] for w in (workdir, expected))
    np.testing.assert_allclose(ours, theirs, rtol=rtol)
