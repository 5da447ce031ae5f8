"""Two processes of four devices each, joined over loopback, as two hosts of a pod."""

import os
import signal

import pytest

from tests.experiments.training_process import (
    assert_close,
    assert_equal,
    finish,
    joined,
    last_state,
    output,
    start,
    start_program,
    wait_for_rows,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("runs") / "undisturbed"
    _finish(_start_pair(workdir), workdir)
    return workdir


def _start_pair(workdir, *arguments):
    mesh = arguments or ("--config.mesh.data=4", "--config.mesh.fsdp=2")
    return [start(workdir, *mesh, *flags, devices=4) for flags in joined()]


def _finish(processes, workdir):
    for process in processes:
        finish(process, workdir)


def test_two_processes_train_as_one(undisturbed, tmp_path):
    workdir = tmp_path / "alone" / "run"
    finish(start(workdir, "--config.eval_every=0"), workdir)
    assert_close(undisturbed, workdir, rtol=1e-5)


def test_pmap_over_two_processes_gives_the_same_run(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    _finish(_start_pair(workdir, "--config.parallel=pmap", "--config.eval_every=0"), workdir)
    assert_close(workdir, undisturbed, rtol=1e-5)


def _distil(workdir, teacher, *arguments, devices):
    workdir.parent.mkdir(exist_ok=True)
    return start_program(
        workdir.parent, "train", f"--workdir={workdir}", "--config=experiments/configs/digits_distilled.py",
        f"--config.teacher={teacher}", "--config.network.hidden_size=16", "--config.network.depth=1",
        "--config.network.num_heads=2", "--config.num_steps=4", "--config.batch_size=16",
        "--config.distillation.num_substeps=4", "--config.optimizer.warm_up_steps=2",
        "--config.log_every=1", "--config.eval_every=2", "--noreport", *arguments, devices=devices,
    )  # fmt: skip


def test_two_processes_distil_as_one(undisturbed, tmp_path):
    alone = tmp_path / "alone" / "run"
    finish(_distil(alone, undisturbed, devices=1), alone)
    for name in ("jit", "pmap"):
        workdir = tmp_path / name / "run"
        flags = [(*pair, f"--config.parallel={name}") for pair in joined()]
        _finish([_distil(workdir, undisturbed, *f, devices=4) for f in flags], workdir)
        assert_close(workdir, alone, rtol=1e-5)


def test_a_teacher_that_one_process_lacks_ends_both(undisturbed, tmp_path):
    teachers = undisturbed, tmp_path / "nowhere"
    processes = [
        _distil(tmp_path / "run", teacher, *flags, devices=4)
        for teacher, flags in zip(teachers, joined(), strict=True)
    ]
    for process in processes:
        process.join(120)
        assert process.exitcode == 2
    assert output(tmp_path / "run").count("Process 1: There is no teacher") == 2
    assert not (tmp_path / "run").exists()


def test_one_killed_and_both_restarted_is_bit_exact(undisturbed, tmp_path):
    workdir = tmp_path / "run"
    first, second = _start_pair(workdir)
    wait_for_rows(first, workdir, 12)
    os.kill(second.pid, signal.SIGKILL)
    second.join()
    first.join(1)  # it waits for the other, and would give up after its heartbeat's time
    first.kill()
    first.join()
    processes = _start_pair(workdir)
    wait_for_rows(processes[0], workdir, 25)
    processes[1].terminate()  # one is told to stop, both save the same step
    _finish(processes, workdir)
    assert "The same command resumes" in output(workdir)
    assert int(last_state(workdir).step) > 20
    _finish(_start_pair(workdir), workdir)
    assert_equal(workdir, undisturbed)


@pytest.mark.parametrize(
    ("folders", "arguments", "said"),
    [
        (("run", "run"), ("--config.seed=1",), "started with different configurations"),
        (("run", "run"), ("--config.loss.transition_ratio=2.0",), "Process 1: transition_ratio is 2.0"),
        (("run", "elsewhere"), (), "is not the same folder on all hosts"),
    ],
)
def test_processes_that_do_not_fit_together_fail_together(tmp_path, folders, arguments, said):
    extra = ((), arguments)
    processes = [
        start(tmp_path / folder, *flags, *more)
        for folder, flags, more in zip(folders, joined(), extra, strict=True)
    ]
    for process in processes:
        process.join(120)
        assert process.exitcode == 2
    assert output(tmp_path / "run").count(said) == 2
