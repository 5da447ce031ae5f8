"""Runs in a bucket: killed, on two hosts, with a server that fails for a while, and one that vanishes."""

import os
import signal
import threading
import time

import pytest

from gmflow_jax._files import to_path
from tests import bucket_server
from tests.experiments.training_process import (
    assert_close,
    assert_equal,
    finish,
    joined,
    kill_repeatedly,
    last_state,
    output,
    start,
    wait_for_rows,
)

pytestmark = pytest.mark.slow

_LONGER = "--config.num_steps=80"  # rows appear only with every checkpoint


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folder of a run on the local disk."""
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(start(workdir, _LONGER), workdir)
    return workdir


@pytest.fixture
def proxy():
    """A server behind a proxy that can fail."""
    with bucket_server.serve_behind_proxy() as proxy, bucket_server.using(proxy.url):
        yield proxy


def _start(workdir, url, folder, *arguments, **options):
    environment = bucket_server.environment(url)
    return start(workdir, _LONGER, *arguments, folder=folder, environment=environment, **options)


def test_a_run_killed_at_random_moments_equals_a_local_one(undisturbed, bucket, bucket_url, tmp_path):
    kill_repeatedly(lambda: _start(bucket, bucket_url, tmp_path), bucket, tmp_path / "x")
    finish(_start(bucket, bucket_url, tmp_path), tmp_path / "x")
    assert_equal(bucket, undisturbed)
    assert not [path.name for path in bucket.iterdir() if "lock" in path.name]


def test_two_processes_train_in_a_bucket_as_one(undisturbed, bucket, bucket_url, tmp_path):
    def start_pair():
        return [
            _start(bucket, bucket_url, tmp_path, "--config.eval_every=0", *flags) for flags in joined()
        ]

    processes = start_pair()
    wait_for_rows(processes[0], bucket, 10)
    processes[1].terminate()
    for process in processes:
        finish(process, tmp_path / "x")
    assert int(last_state(bucket).step) > 9
    for process in start_pair():
        finish(process, tmp_path / "x")
    assert_close(bucket, undisturbed, rtol=1e-5)


def test_a_server_that_fails_for_a_while_loses_nothing(undisturbed, proxy, tmp_path):
    workdir = to_path(f"gs://{bucket_server.BUCKET}/run")
    process = _start(workdir, proxy.url, tmp_path)
    for rows, mode in ((5, "refuse"), (15, "drop"), (25, "refuse")):
        wait_for_rows(process, workdir, rows)
        proxy.mode = mode
        threading.Timer(5, setattr, (proxy, "mode", "pass")).start()
        while proxy.mode != "pass":
            time.sleep(0.1)
    finish(process, tmp_path / "x")
    assert proxy.num_failed > 10
    assert_equal(workdir, undisturbed)


def test_a_bucket_that_vanishes_ends_the_run_which_can_be_resumed(undisturbed, proxy, tmp_path):
    workdir = to_path(f"gs://{bucket_server.BUCKET}/run")
    process = _start(workdir, proxy.url, tmp_path)
    wait_for_rows(process, workdir, 10)
    proxy.mode = "drop"
    process.join(300)
    said = output(tmp_path / "x")
    assert process.exitcode == 75 and "Traceback" not in said  # the same command may work later
    assert "error: " in said and "could not be reached" in said.rpartition("error: ")[2]
    proxy.mode = "pass"
    finish(_start(workdir, proxy.url, tmp_path), tmp_path / "x")
    assert_equal(workdir, undisturbed)


def test_a_bucket_that_is_deleted_is_named(undisturbed, tmp_path):
    with bucket_server.serve() as url, bucket_server.using(url):
        workdir = to_path(f"gs://{bucket_server.BUCKET}/run")
        process = _start(workdir, url, tmp_path)
        wait_for_rows(process, workdir, 10)
        os.kill(process.pid, signal.SIGSTOP)
        workdir.fs.rm(bucket_server.BUCKET, recursive=True)
        os.kill(process.pid, signal.SIGCONT)
        process.join(300)
        said = output(tmp_path / "x")
        assert process.exitcode == 2 and "Traceback" not in said
        assert "there is no such bucket" in said.rpartition("error: ")[2]
