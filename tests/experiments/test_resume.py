"""A run that is killed repeatedly equals an undisturbed run: losses, parameters, averages and optimiser."""

import pytest

from tests.experiments.training_process import (
    NUM_STEPS,
    assert_close,
    assert_equal,
    finish,
    kill_repeatedly,
    last_state,
    output,
    start,
    wait_for_rows,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    finish(start(workdir), workdir)
    return workdir


def test_a_run_killed_at_random_moments_is_bit_exact(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    kill_repeatedly(lambda: start(workdir), workdir)
    finish(start(workdir), workdir)
    assert_equal(workdir, undisturbed)


def test_sigterm_saves_and_ends_cleanly(undisturbed, tmp_path):
    workdir = _interrupted(tmp_path)
    assert 5 <= int(last_state(workdir).step) < NUM_STEPS
    assert "The same command resumes" in output(workdir)
    finish(start(workdir), workdir)
    assert_equal(workdir, undisturbed)


@pytest.mark.parametrize("arguments", [("--config.parallel=pmap",), ("--config.mesh.fsdp=2",)])
def test_a_run_resumed_on_other_devices_is_equal_to_rounding(undisturbed, tmp_path, arguments):
    """The run begins on one device and is resumed on four, with gradient accumulation and prefetching."""
    workdir = _interrupted(tmp_path)
    faster = ("--config.num_microbatches=2", "--config.data.num_threads=2", "--config.eval_every=0")
    finish(start(workdir, *arguments, *faster, devices=4), workdir)
    assert_close(workdir, undisturbed, rtol=1e-4)


def _interrupted(tmp_path):
    workdir = tmp_path / "run"
    process = start(workdir)
    wait_for_rows(process, workdir, 5)
    process.terminate()
    finish(process, workdir)
    return workdir
