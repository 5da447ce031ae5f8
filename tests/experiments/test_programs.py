"""The programs: train, resume, sample, evaluate, and their error messages, some in processes of their own."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from experiments.common import cli

_TINY = (
    "--config.network.hidden_size=16", "--config.network.depth=1", "--config.network.num_heads=2",
    "--config.optimizer.warm_up_steps=1", "--config.batch_size=16", "--config.log_every=2",
    "--config.checkpoint_every=4", "--config.report.num_steps=(1,)", "--config.report.num_seeds=2",
)  # fmt: skip


def _run(program, *arguments, check=True):
    command = [sys.executable, "-m", f"experiments.{program}", *arguments]
    # Programs that run once take longer to compile than to run.
    env = {**os.environ, "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=600, env=env)
    if check:
        assert result.returncode == 0, result.stderr
    return result


@pytest.fixture(scope="module")
def workdir(run_main, tmp_path_factory):
    """A digits run that was stopped by its number of steps, without a report."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    config = "--config=experiments/configs/digits.py"
    run_main("train", config, f"--workdir={folder}", *_TINY, "--config.num_steps=6", "--noreport")
    return folder


def test_training_leaves_metrics_and_says_when_a_run_is_finished(workdir):
    assert [line.split(",")[0] for line in (workdir / "metrics.csv").read_text().splitlines()[1:]] == [
        "2", "4", "6",
    ]  # fmt: skip
    assert list(workdir.glob("events.out.tfevents*"))
    config = "--config=experiments/configs/digits.py"
    again = _run("train", config, f"--workdir={workdir}", *_TINY, "--config.num_steps=6", "--noreport")
    assert again.stdout.startswith("Running on 1 CPU device (cpu), process 0 of 1.\n")
    assert "finished" in again.stdout


def test_another_configuration_in_the_same_workdir_is_refused(workdir):
    config = "--config=experiments/configs/digits.py"
    result = _run("train", config, f"--workdir={workdir}", *_TINY, "--config.num_steps=7", check=False)
    assert result.returncode == 2
    assert "num_steps was 6 and is now 7" in result.stderr
    assert "follows a cosine over num_steps" in result.stderr and "Traceback" not in result.stderr


def test_sample_writes_a_grid_and_samples_that_depend_on_the_seed_alone(workdir, run_main, tmp_path):
    asked = (f"--workdir={workdir}", "--solver=gm_sde", "--num_steps=2", "--classes=3,seven",
             f"--out={tmp_path / 'grid.png'}")  # fmt: skip
    outs = [tmp_path / "a.npz", tmp_path / "b.npz"]
    run_main("sample", *asked, "--num_samples=6", f"--samples_out={outs[0]}")
    run_main("sample", *asked, "--num_samples=4", f"--samples_out={outs[1]}")
    first, second = (np.load(out) for out in outs)
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")
    assert first["samples"].shape == (6, 8, 8)
    assert list(first["labels"]) == [3, 7, 3, 7, 3, 7]
    np.testing.assert_allclose(first["samples"][:4], second["samples"], atol=1e-5)


@pytest.mark.slow
def test_evaluate_makes_a_joint_table_report_and_picture(workdir, run_main, tmp_path, capsys):
    flow = tmp_path / "flow"
    run_main("train", "--config=experiments/configs/digits_flow.py", f"--workdir={flow}", *_TINY,
             "--config.num_steps=6", "--noreport")  # fmt: skip
    out = tmp_path / "joint.json"
    run_main("evaluate", f"--workdir={workdir}", f"--workdir={flow}", f"--out={out}")
    report = json.loads(out.read_text())
    assert {row["solver"] for row in report["rows"]} >= {"GM-ODE 2", "GM-SDE 2", "flow, Euler", "flow, AB2"}
    for row in report["rows"]:
        assert set(row) == {"solver", "nfe", "frechet", "precision", "recall", "accuracy", "cell"}
        assert row["cell"]["num_steps"] == row["nfe"] and row["cell"]["num_substeps"] == 16 // row["nfe"]
        assert row["frechet"]["mean"] > 0
    euler, ab2 = ([r for r in report["rows"] if r["solver"] == f"flow, {n}"] for n in ("Euler", "AB2"))
    assert euler[0]["frechet"] == ab2[0]["frechet"]  # the first step of AB2 is Euler's
    printed = capsys.readouterr().out
    assert "GM-SDE 2" in printed and "real halves" in printed
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_evaluate_scores_a_file_of_samples(tmp_path):
    from gmflow_jax import data

    digits = data.digits()
    samples = tmp_path / "real.npz"
    np.savez(samples, samples=data.to_unit_range(digits.images)[..., 0], labels=digits.labels)
    out = tmp_path / "report.json"
    _run("evaluate", f"--samples={samples}", "--reference=digits", f"--out={out}")
    scores = json.loads(out.read_text())["scores"]
    assert scores["frechet"] == pytest.approx(0, abs=1e-9)
    assert scores["precision"] == scores["recall"] == 1


@pytest.mark.parametrize(
    ("program", "arguments", "said"),
    [
        ("sample", ["--workdir=/nowhere"], "does not exist"),
        ("evaluate", ["--samples=/nowhere.npz"], "no file"),
        ("train", ["--config=nowhere.py", "--workdir=/tmp"], "There is no configuration file nowhere.py"),
        (
            "train",
            ["--config=experiments/configs/digits.py", "--workdir=/tmp", "--config.nmu_steps=100"],
            "has no field 'nmu_steps'. Did you mean \"num_steps\" instead of \"nmu_steps\"? See --help.",
        ),
    ],
)
def test_impossible_input_gives_a_message_and_exit_code_2(program, arguments, said):
    result = _run(program, *arguments, check=False)
    assert result.returncode == 2
    assert said in result.stderr
    assert "Traceback" not in result.stderr


def test_too_little_memory_gives_a_message_and_exit_code_2():
    program = "import jax.numpy as jnp; from experiments.common import cli; cli.run(lambda: jnp.ones(10**14))"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    assert result.returncode == 2
    assert "A device ran out of memory" in result.stderr and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--workdir=.", "holds no run"),
        ("--classes=3,eleven", "no class 'eleven'"),
        ("--classes=10", "label 10 is out of range"),
        ("--solver=magic", "no solver 'magic'"),
        ("--guidance_scale=1.5", "guidance_scale must be in"),
        ("--order=3", "order must be 1 or 2"),
        ("--num_samples=0", "--num_samples must be at least 1"),
        ("--guidance_scale=nan", "guidance_scale must be in"),
        ("--seed=4294967296", r"--seed must be from 0 to 2\*\*32 - 1"),
        ("--ema_std=0.1", "--ema_std is for runs on latents; leave it out"),
    ],
)
def test_sample_refuses_impossible_options(workdir, flag, said, run_main):
    with pytest.raises(cli.UserError, match=said):
        run_main("sample", f"--workdir={workdir}", flag)


@pytest.mark.parametrize(
    ("flag", "said"),
    [
        ("--solvers=gm_pc,magic", "no solver 'magic'"),
        ("--num_steps=4,x", "a list such as 1,2,4"),
        ("--num_steps=0", "num_steps must be at least 1"),
    ],
)
def test_evaluate_refuses_impossible_options(workdir, flag, said, run_main):
    with pytest.raises(cli.UserError, match=said):
        run_main("evaluate", f"--workdir={workdir}", flag)


def test_evaluate_compares_any_solvers(workdir, run_main, tmp_path):
    out = tmp_path / "solvers.json"
    run_main("evaluate", f"--workdir={workdir}", "--solvers=gm_pc,heun", "--num_steps=1,2", f"--out={out}")
    rows = json.loads(out.read_text())["rows"]
    # Two steps of Heun to t = 0 are three calls.
    assert [(r["solver"], r["nfe"]) for r in rows] == [("gm_pc", 1), ("gm_pc", 2), ("heun", 1), ("heun", 3)]
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("platform", ["cuda", "cud"])
def test_a_missing_device_gives_one_sentence(platform):
    program = "from experiments.common import cli; cli.run(lambda: print('runs'))"
    env = {**os.environ, "JAX_PLATFORMS": platform, "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=env)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"error: JAX_PLATFORMS is '{platform}', but JAX cannot start such")
    assert result.stderr.count("\n") == 1
