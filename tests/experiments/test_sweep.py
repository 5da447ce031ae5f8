"""experiments.sweep: tables, resuming, extending, and refused options."""

import json

import numpy as np
import pytest

from experiments.common import cli

_ROWS = (
    "--config=experiments/configs/sweep_digits.py", "--config.num_steps=(1,)", "--config.cfg_scales=(1.5,)",
)  # fmt: skip
_ONE = "{'name': 'A', 'solver': 'gm_sde', 'order': 1}"


@pytest.fixture(scope="module")
def workdir(run_main, tmp_path_factory):
    """A short digits run with a network too small to draw digits."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    run_main(
        "train", "--config=experiments/configs/digits.py", f"--workdir={folder}", "--config.num_steps=6",
        "--config.network.hidden_size=16", "--config.network.depth=1", "--config.network.num_heads=2",
        "--config.optimizer.warm_up_steps=1", "--config.batch_size=16", "--config.log_every=2", "--noreport",
        "--config.report.num_seeds=1",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def sweep(run_main, workdir):
    def run(out, *arguments, scales="(0.0,0.3)"):
        scales = f"--config.guidance_scales={scales}"
        run_main("sweep", *_ROWS, f"--workdir={workdir}", f"--out={out}", scales, *arguments)
        return json.loads((out / "sweep.json").read_text())

    return run


@pytest.fixture(scope="module")
def swept(sweep, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweeps") / "digits"
    return out, sweep(out)


@pytest.mark.slow
def test_the_best_cells_are_the_extremes_of_all(swept):
    out, content = swept
    rows = {(c["cell"]["name"], c["cell"]["guidance_scale"]): c["scores"] for c in content["cells"]}
    assert sorted(rows) == [
        ("GM-ODE 2", 0.0), ("GM-ODE 2", 0.3), ("GM-ODE 2, CFG", 1.5), ("GM-SDE 2", 0.0), ("GM-SDE 2", 0.3),
    ]  # fmt: skip
    for best in content["best"]:
        own = [scores for (name, _), scores in rows.items() if name == best["row"]]
        assert best["by_distance"]["frechet"] == min(scores["frechet"] for scores in own)
        assert best["by_precision"]["precision"] == max(scores["precision"] for scores in own)
    text = (out / "sweep.txt").read_text()
    assert "best frechet" in text and "best precision" in text and "GM-ODE 2, CFG" in text
    assert (out / "sweep.png").read_bytes().startswith(b"\x89PNG")


def test_an_unguided_cell_equals_the_report(swept, workdir, run_main, tmp_path):
    run_main("evaluate", f"--workdir={workdir}", f"--out={tmp_path / 'r.json'}", "--num_steps=1")
    report = json.loads((tmp_path / "r.json").read_text())
    expected = {row["solver"]: row["frechet"]["mean"] for row in report["rows"] if row["nfe"] == 1}
    for cell in swept[1]["cells"]:
        if cell["cell"]["guidance_scale"] == 0:
            assert cell["scores"]["frechet"] == pytest.approx(expected[cell["cell"]["name"]], abs=2e-6)


def test_finished_cells_are_read_and_missing_cells_are_drawn(swept, sweep, tmp_path):
    _, content = swept
    out = tmp_path / "again"
    (out / "cells").mkdir(parents=True)
    for path in sorted((swept[0] / "cells").iterdir())[1:]:
        cell = json.loads(path.read_text())
        cell["scores"]["recall"] = 0.123  # so that one sees that it was read
        (out / "cells" / path.name).write_text(json.dumps(cell))
    again = sweep(out)
    changed = [
        after["scores"]["recall"] == 0.123
        for before, after in zip(content["cells"], again["cells"], strict=True)
    ]
    assert sum(changed) == 4
    drawn = changed.index(False)
    assert again["cells"][drawn]["scores"] == pytest.approx(content["cells"][drawn]["scores"], rel=1e-6)


def test_a_sweep_can_be_extended_but_not_changed(swept, sweep, workdir):
    out, content = swept
    part = sweep(out, "--row=GM-SDE 2")
    assert part["cells"] == [c for c in content["cells"] if c["cell"]["name"] == "GM-SDE 2"]
    more = sweep(out, scales="(0.0,0.3,0.6)")
    assert len(more["cells"]) == 7
    assert [c for c in more["cells"] if c["cell"]["guidance_scale"] != 0.6] == content["cells"]
    settings = json.loads((out / "settings.json").read_text())
    (out / "settings.json").write_text(json.dumps({**settings, "num_samples": 5}))
    with pytest.raises(cli.UserError, match="num_samples was 5 and is now 1797"):
        sweep(out)
    (out / "settings.json").write_text(json.dumps(settings))


def test_the_same_run_by_another_path_goes_on(swept, sweep, workdir):
    assert sweep(swept[0], f"--workdir={workdir}/")["cells"]


@pytest.mark.parametrize(
    ("metrics", "reference", "said"),
    [
        ("colours", "images", "--metrics leaves out fid and precision_recall"),
        ("fid,precision_recall", "statistics", "precision_recall cannot be measured, for the reference"),
        (None, "statistics", "has no images or features for precision_recall"),
    ],
)
def test_an_impossible_table_is_refused_before_drawing(
    checkpoint, inception, run_main, tmp_path, metrics, reference, said
):
    arrays = {"mu": np.zeros(2048), "sigma": np.eye(2048)} if reference == "statistics" else {}
    np.savez(tmp_path / "reference.npz", **arrays)
    with pytest.raises(cli.UserError, match=said):
        run_main(
            "sweep", *_ROWS, f"--checkpoint={checkpoint}", f"--inception={inception}",
            f"--reference={tmp_path / 'reference.npz'}", f"--out={tmp_path / 'out'}",
            *([f"--metrics={metrics}"] if metrics else []),
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_configuration_that_is_no_sweep_is_refused(run_main, tmp_path):
    with pytest.raises(cli.UserError, match="is no sweep"):
        run_main("sweep", "--config=experiments/configs/digits.py", f"--out={tmp_path}")


@pytest.mark.slow
def test_a_sweep_over_a_checkpoint(checkpoint, inception, run_main, tmp_path):
    reference = tmp_path / "reference.npz"
    np.savez(reference, arr_0=np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8))
    run_main(
        "sweep", *_ROWS, f"--checkpoint={checkpoint}", f"--inception={inception}", "--config.num_samples=8",
        f"--reference={reference}", f"--out={tmp_path / 'out'}", "--metrics=fid,precision_recall,colours",
        "--config.guidance_scales=(0.3,)", f"--config.rows=({_ONE},)",
    )  # fmt: skip
    content = json.loads((tmp_path / "out" / "sweep.json").read_text())
    (cell,) = content["cells"]
    assert cell["cell"]["spectrum"] is True and cell["cell"]["num_substeps"] == 128
    assert set(cell["scores"]) == {"fid", "precision", "recall", "saturation", "brightness", "contrast"}
    assert "difference to the mean of the real images" in (tmp_path / "out" / "sweep.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--checkpoint=nowhere"], "either --workdir"),
        (["--config.rows=({'name': 'A', 'solver': 'ab2', 'guidance_scales': (1.0,)},)"], "scale must be in"),
        (["--config.rows=()"], "nothing to sweep"),
        (["--config.rows=(3,)"], "A row is 3, but must be a dict"),
        (["--config.num_steps=(0,)"], "num_steps must be at least 1"),
        (["--config.cfg_scales=(1e400,)"], "guidance_scale is inf"),
        (["--config.seed=4294967296"], "seed is 4294967296"),
        (["--config.num_samples=0"], "num_samples is 0"),
        (["--config.rows=({'name': 'A', 'solver': 'magic'},)"], "no solver 'magic'"),
        (["--config.rows=({'name': 'A', 'solver': 'euler', 'speed': 1},)"], "be used in a sweep: .*speed"),
        ([f"--config.rows=({_ONE}, {_ONE})"], "both called A"),
        (["--row=GM-SDE 1"], "no row 'GM-SDE 1' in this sweep. Its rows are: GM-ODE 2; GM-SDE 2"),
        (["--workdir=nowhere"], "nowhere does not exist"),
        (["--metrics=fid"], "--metrics cannot be used here: runs on digits have"),
        (["--inception=x.npz"], "--inception cannot be used here: the run in --workdir"),
        (["--config.rows=({'name': 3, 'solver': 'euler'},)"], "name is 3, but must be of type str"),
        (["--config.rows=({'name': 'A', 'solver': 'euler', 'orthogonal': 2},)"], "must be between 0 and 1"),
    ],
)
def test_impossible_options_are_refused(sweep, tmp_path, arguments, said):
    with pytest.raises(cli.UserError, match=said):
        sweep(tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()
