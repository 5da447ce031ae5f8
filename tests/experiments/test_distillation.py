"""Distilled runs: their teachers, their start, resuming, the defaults of the programs, and bad input."""

import importlib
import json
import math
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.common import cli, files
from experiments.runs import bundles, folder, networks, teachers, trained
from experiments.scoring import run_report
from experiments.scoring.run_evaluator import RunEvaluator
from experiments.training import costs, distillation, fit, steps
from gmflow_jax import data, gm, interop, models, training
from tests.experiments.training_process import last_state, read_losses

_CALLS = 2


def settings(name, teacher="", /, **fields):
    """Return a tiny configuration; a field is named as in `optimizer__learning_rate`."""
    config = importlib.import_module(f"experiments.configs.{name}").get_config()
    if config.network.kind == "gm_dit":
        config.network.update(hidden_size=16, depth=1, num_heads=2, log_std_dim=8)
    config.update(num_steps=4, batch_size=8, log_every=1, checkpoint_every=2)
    config.optimizer.warm_up_steps = 1
    if "teacher" in config:
        fields = {"teacher": str(teacher), "num_calls": _CALLS, "distillation__num_substeps": 4} | fields
    for field, value in fields.items():
        *parents, last = field.split("__")
        part = config
        for parent in parents:
            part = part[parent]
        with part.ignore_type():
            part[last] = value
    return config


def save(workdir, config):
    """Write a run that was saved before its first step."""
    files.write_json(workdir / "config.json", json.loads(config.to_json_best_effort()))
    params = jax.jit(lambda: networks.init_params(config))()
    with training.Checkpointer(workdir / "checkpoints") as checkpointer:
        checkpointer.save_state(training.init_state(params, steps.make_optimizer(config)))
    return workdir


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of the runs of this module: teacher, other (another teacher) and student."""
    path = tmp_path_factory.mktemp("runs")
    for name, seed in (("teacher", 0), ("other", 1)):
        (path / name).mkdir()
        save(path / name, settings("digits", seed=seed))
    fit.fit_run(settings("digits_distilled", path / "teacher"), path / "student", on_step=lambda: None)
    return path


@pytest.fixture(scope="module")
def latent_student(tmp_path_factory):
    """A distilled run on latents, saved before its first step."""
    config = settings(
        "imagenet256_gmdit_xl_k8_distilled", "nowhere", task="fake", distillation__shift=2.0,
        network__input_size=8, network__num_classes=3,
    )  # fmt: skip
    return save(tmp_path_factory.mktemp("latents"), config)


def train(runs, workdir, teacher, **fields):
    return fit.fit_run(settings("digits_distilled", teacher, **fields), workdir, on_step=lambda: None)


@pytest.mark.slow
def test_a_resumed_run_with_a_moved_teacher_equals_an_uninterrupted_one(runs, tmp_path):
    workdir, moved = tmp_path / "student", tmp_path / "moved"
    shutil.copytree(runs / "teacher", moved)
    shutil.copytree(runs / "student", workdir)
    shutil.rmtree(workdir / "checkpoints" / "4")
    assert train(runs, workdir, moved) is fit.Outcome.DONE
    assert read_losses(workdir) == read_losses(runs / "student")
    states = last_state(workdir), last_state(runs / "student")
    assert int(states[0].step) == 4
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)), *states)
    assert folder.read_config(workdir).teacher == str(moved)
    assert json.loads((workdir / "teacher.json").read_text()) == _noted(runs)


def _noted(runs):
    params, _ = bundles.load_average(str(runs / "teacher"), folder.read_config(runs / "teacher"))
    return {"weights_sha256": models.fingerprint(params)}


def test_the_teacher_is_noted_and_is_not_in_the_checkpoints(runs):
    assert json.loads((runs / "student" / "teacher.json").read_text()) == _noted(runs)
    stored = _arrays(runs / "student" / "checkpoints" / "4")
    assert stored == _arrays(runs / "teacher" / "checkpoints" / "0")
    assert stored["params"] and stored["ema"]


def _arrays(checkpoint):
    """Return the names of the arrays in each part of a checkpoint."""
    return {
        path.parent.name: set(json.loads(path.read_text())["tree_metadata"])
        for path in checkpoint.glob("*/_METADATA")
    }


def test_a_folder_refuses_another_teacher(runs):
    with pytest.raises(cli.UserError, match=r"made with another teacher \(weights_sha256 was"):
        train(runs, runs / "student", runs / "other")
    assert folder.read_config(runs / "student").teacher == str(runs / "teacher")


def test_a_student_draws_in_its_calls_unless_told_otherwise(runs, run_main, tmp_path):
    asked = (f"--workdir={runs / 'student'}", "--num_samples=2", f"--out={tmp_path / 'grid.png'}")
    drawn = {}
    for name, flags in {"default": (), "calls": (f"--num_steps={_CALLS}", "--order=1")}.items():
        out = tmp_path / f"{name}.npz"
        run_main("sample", *asked, *flags, f"--samples_out={out}")
        drawn[name] = np.load(out)["samples"]
    np.testing.assert_array_equal(drawn["default"], drawn["calls"])
    with pytest.warns(UserWarning, match="distilled for num_calls = 2, but num_steps is 1"):
        run_main("sample", *asked, "--num_steps=1")


def test_a_report_has_the_student_in_its_calls_and_its_teacher(runs, capsys):
    workdir = str(runs / "student")
    run = trained.load_run(workdir)
    cells = run_report._cells(run, (), ())
    assert [(cell.solver, cell.num_steps) for cell in cells] == [("gm_ode", _CALLS)]
    assert RunEvaluator(workdir, run).resolve(cells[0]).order == 1
    (other,) = run_report._cells(run, (), (3,))
    with pytest.warns(UserWarning, match="num_calls = 2, but num_steps is 3"):
        RunEvaluator(workdir, run).resolve(other)
    jobs = run_report._teacher_jobs(workdir, run)
    assert {cell.order for _, cell in jobs if cell.solver == "gm_ode"} == {2}
    assert all(evaluator.seeds == RunEvaluator(workdir, run).seeds for evaluator, _ in jobs)
    assert not capsys.readouterr().out
    students = [(RunEvaluator(name, run), cell) for name in ("a", "b") for cell in cells]
    named = [cell.name for _, cell in run_report._with_distinct_names([*students, *jobs])]
    assert named[:2] == ["a: student", "b: student"] and "teacher, Euler" in named
    students[1] = (students[1][0], other)  # a student for another number of calls has a column of its own
    assert [cell.name for _, cell in run_report._with_distinct_names(students)] == ["student", "student"]


@pytest.mark.parametrize(
    ("teacher", "said"), [("other", "other holds other weights than the teacher of"), ("gone", "not exist")]
)
def test_a_report_leaves_out_a_teacher_that_has_changed(runs, teacher, said, capsys):
    run = trained.load_run(runs / "student")
    run.config.teacher = str(runs / teacher)
    assert run_report._teacher_jobs(str(runs / "student"), run) == []
    assert said in capsys.readouterr().out


@pytest.mark.slow
def test_reports_and_sweeps_of_a_student_take_its_calls(runs, run_main, tmp_path):
    run_main("evaluate", f"--workdir={runs / 'student'}", f"--out={tmp_path / 'report.json'}")
    rows = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert [row["nfe"] for row in rows if row["solver"] == "student"] == [_CALLS]
    assert {row["solver"] for row in rows} == {"student", "teacher, GM-ODE 2", "teacher, Euler"}
    run_main("sweep", "--config=experiments/configs/sweep_digits.py", f"--workdir={runs / 'student'}",
             "--config.guidance_scales=(0.1,)", "--row=GM-ODE 2", f"--out={tmp_path / 'sweep'}")  # fmt: skip
    cells = json.loads((tmp_path / "sweep" / "sweep.json").read_text())["cells"]
    assert {cell["cell"]["num_steps"] for cell in cells} == {_CALLS}


def test_an_exported_student_keeps_its_calls_and_teaches_nobody(latent_student, run_main, tmp_path):
    out = tmp_path / "exported"
    run_main("export", f"--workdir={latent_student}", f"--out={out}")
    assert interop.read_num_calls(out) == _CALLS
    assert interop.load_diffusers(out).shift == 2.0
    config = settings("imagenet256_gmdit_xl_k8_distilled", out)
    with pytest.raises(ValueError, match=r"was itself distilled for 2 calls.* give its own teacher"):
        teachers.load_teacher(config)
    with pytest.raises(ValueError, match="names no task, as in a diffusers folder"):
        folder.read_config(out / "transformer")


@pytest.mark.parametrize("num_components", [1, 4])
def test_a_student_of_a_flow_network_starts_with_its_velocity(num_components, tmp_path):
    save(tmp_path, settings("digits_flow"))
    config = settings("digits_distilled", tmp_path, network__num_components=num_components)
    teacher = teachers.load_teacher(config)
    params = jax.jit(distillation.start(config, teacher))(teacher.params)
    apply, shapes = networks.abstract_network(config)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)
    inputs = (jax.random.normal(jax.random.key(0), (2, 4, 4, 4)), jnp.full(2, 0.5), jnp.arange(2))
    q, expected = jax.jit(apply)(params, *inputs), jax.jit(teacher.apply)(teacher.params, *inputs)
    np.testing.assert_allclose(gm.mean(q), gm.mean(expected), atol=1e-6)
    np.testing.assert_allclose(q.log_std, math.log(0.05), rtol=1e-6)


def test_the_velocity_of_a_noise_prediction_is_exact_for_gaussian_data():
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    mean, var = 0.7, 0.25

    def noise(params, x, t):  # the exact prediction of DDPM at an integer step
        share = jnp.asarray(kept, jnp.float32)[jnp.round(1000 * t).astype(jnp.int32)][:, None]
        expected = jnp.sqrt(1 - share) * (x - jnp.sqrt(share) * mean) / (share * var + 1 - share)
        return gm.Gaussian(expected, jnp.ones(()))

    steps_of_t = np.array([0, 40, 300, 700, 990])
    ratio = np.sqrt((1 - kept) / kept)[steps_of_t]
    t = ratio / (1 + ratio)
    x = np.linspace(-1, 2, 10).reshape(5, 2)
    x_0 = mean + ((1 - t) * var / ((1 - t) ** 2 * var + t**2))[:, None] * (x - (1 - t)[:, None] * mean)
    velocity = teachers.velocity_of_noise(noise)
    found = velocity(None, jnp.asarray(x, jnp.float32), jnp.asarray(t, jnp.float32))
    np.testing.assert_allclose(found, (x - x_0) / t[:, None], rtol=1e-3, atol=1e-3)
    assert np.isfinite(velocity(None, jnp.ones((2, 2)), jnp.array([0.0, 1.0]))).all()


def test_a_run_says_what_it_distils_and_what_it_costs(runs):
    guided = {"distillation__guidance": "cfg", "distillation__guidance_scale": 2.0}
    passes = {5: {}, 7: guided, 6: {"distillation__data_free": True}}
    for expected, fields in passes.items():
        assert costs._forward_passes(settings("digits_distilled", **fields)) == expected
    config = settings("digits_distilled", runs / "teacher", num_calls=1, **guided)
    distilled = distillation.Distillation(teachers.load_teacher(config), "")
    said = distillation.describe(config, distilled)
    assert "in 1 call from" in said and "guided by cfg with the scale 2 at times (0.0, 1.0)" in said
    config.network.num_components = 1
    assert "expect worse samples" in distillation.describe(config, distilled)


_REFUSED = [
    ("num_calls", (0, -1, 1.5, True, 2**31, None), r"num_calls is .* must be (in \[1, |a whole number)"),
    ("teacher", ("", None), "teacher is empty; give --config.teacher=WORKDIR"),
    ("teacher", ("/nowhere",), "There is no teacher /nowhere"),
    ("teacher", (__file__,), "is not a readable safetensors file"),
    ("teacher", ("{tmp_path}",), "holds neither model_index.json nor config.json"),
    ("teacher", ("{runs}/student",), "itself distilled for 2 calls.* its own teacher, .*teacher"),
    ("teacher", ("{tmp_path}/run",), "a run cannot be its own teacher"),
    ("distillation.dropout", (1.0, -0.1, math.nan, "a"), r"dropout is .* must be (in \[0, 1\)|a number)"),
    ("distillation.num_substeps", (0, 1.5, "8"), "num_substeps is"),
    ("distillation.integrator", ("eulr",), "integrator 'eulr' is unknown"),
    ("distillation.shift", (0.0, math.inf, math.nan, "1"), "shift is"),
    ("distillation.init", ("nothing",), "init is 'nothing', but must be 'teacher' or 'scratch'"),
    ("distillation.kind", ("sd",), "kind is 'sd', but must be 'sit' or 'dit'"),
    ("distillation.data_free", ("yes", None), "data_free is"),
    ("distillation.guidance", ("magic",), "'magic' is unknown"),
    ("distillation.guidance_scale", (1.0, -0.1, math.nan, "x"), "guidance_scale (is|must be)"),
    ("distillation.interval", ((0.6, 0.0), (0.0,), "0:1", 0.5, (math.nan, 1.0)), "must be two times"),
    ("network.num_classes", (12,), "has 10 classes, but network.num_classes is 12"),
    ("network.num_heads", (4,), r"cannot start from .*\(num_heads is 2 and not 4\).*init=scratch"),
    ("network.num_components", (4,), "num_components is 8 and not 4"),
]


@pytest.mark.parametrize(("field", "values", "said"), _REFUSED, ids=[f"{f}-{v[0]}" for f, v, _ in _REFUSED])
def test_input_that_cannot_work_is_refused_before_a_folder_is_made(runs, field, values, said, tmp_path):
    for value in values:
        if isinstance(value, str):
            value = value.format(runs=runs, tmp_path=tmp_path)
        fields = {"teacher": str(runs / "teacher")} | {field.replace(".", "__"): value}
        with pytest.raises(cli.UserError, match=said):
            fit.fit_run(settings("digits_distilled", **fields), tmp_path / "run", on_step=lambda: None)
    assert not (tmp_path / "run").exists()


def test_a_teacher_that_held_out_other_digits_is_refused(runs, tmp_path):
    with pytest.raises(cli.UserError, match=r"data.held_out 0, but .* has 360, .* --config.data.held_out=0"):
        train(runs, tmp_path / "run", runs / "teacher", data__held_out=360)
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_another_task_or_shape_is_refused(runs, tmp_path):
    with pytest.raises(cli.UserError, match=r"trained on the task digits, but .* checkerboard"):
        fit.fit_run(settings("checkerboard_distilled", runs / "teacher"), tmp_path / "run")
    fields = {"task": "fake", "network__input_size": 8, "network__num_classes": 10}
    config = settings("imagenet256_gmdit_xl_k8_distilled", runs / "teacher", **fields)
    with pytest.raises(cli.UserError, match=r"of shape \(4, 4, 4\), but .* needs \(8, 8, 4\)"):
        fit.fit_run(config, tmp_path / "run", on_step=lambda: None)
    assert not (tmp_path / "run").exists()


def test_a_teacher_of_other_latents_is_refused(runs):
    teacher = teachers.load_teacher(settings("digits_distilled", runs / "teacher"))
    latents = data.LatentMetadata(
        format_version=1, format="sample", container="npy", autoencoder="a", scaling_factor=0.5, downscale=8,
        latent_shape=(4, 4, 4), image_size=32, num_images=0, num_classes=1, class_folders=("jay",),
        class_names={}, shards=(), broken=(), source={},
    )  # fmt: skip
    metadata = json.loads(json.dumps(latents.to_json()))
    trained_on_them = teacher._replace(latents=latents)
    distillation._check_latents("It", trained_on_them, metadata)
    for name, value in {"autoencoder": "b", "scaling_factor": 0.2, "class_folders": ["owl"]}.items():
        with pytest.raises(ValueError, match=f"It models latents with another {name.replace('_', ' ')} than"):
            distillation._check_latents("It", trained_on_them, metadata | {name: value})
    autoencoder = interop.load_diffusers(Path(__file__).parents[1] / "golden" / "autoencoder").autoencoder
    with pytest.raises(ValueError, match="models latents with another autoencoder than"):
        distillation._check_latents("It", teacher._replace(autoencoder=autoencoder), metadata)
