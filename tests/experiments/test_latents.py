"""From photographs to latents, a trained network and images, by one command each, and refused options."""

import csv
import json
import pathlib
import types

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from experiments.common import cli
from experiments.scoring import options
from gmflow_jax import interop
from tests.experiments.training_process import TINY_PHOTOGRAPHS

_GOLDEN = pathlib.Path(__file__).parents[1] / "golden" / "autoencoder"
_SIZES = (
    *TINY_PHOTOGRAPHS, "--config.num_steps=6", "--config.checkpoint_every=3", "--config.sample_every=3",
    "--config.post_hoc_ema.stds=(0.05,0.1)", "--config.post_hoc_ema.every=1",
)  # fmt: skip


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photographs")
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (folder / name).mkdir()
        for i in range(6):
            cut = photo[40 * i : 40 * i + 100, 60 * i : 60 * i + 120]
            Image.fromarray(cut).save(folder / name / f"{i}.jpg")
    return folder


@pytest.fixture(scope="module")
def latents(photographs, run_main, tmp_path_factory):
    out = tmp_path_factory.mktemp("latents") / "train"
    run_main("prepare_latents", f"--images={photographs}", f"--autoencoder={_GOLDEN}", f"--out={out}",
             "--image_size=16", "--images_per_shard=8")  # fmt: skip
    return out


@pytest.fixture(scope="module")
def train(latents, run_main):
    def run(workdir, *arguments, folder=latents):
        run_main("train", *_SIZES, f"--workdir={workdir}", f"--config.data.folder={folder}",
                 "--config.network.num_classes=2", *arguments)  # fmt: skip

    return run


@pytest.fixture(scope="module")
def workdir(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "mine"
    train(folder, f"--config.autoencoder={_GOLDEN}")
    return folder


@pytest.mark.slow
def test_scores_while_training_name_the_number_of_images(train, photographs, inception, tmp_path):
    workdir = tmp_path / "run"
    train(workdir, f"--config.autoencoder={_GOLDEN}", "--config.score_every=6", "--config.score_samples=10",
          f"--config.inception={inception}", f"--config.reference={photographs}")  # fmt: skip
    with (workdir / "metrics.csv").open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    scores = {name: float(value) for name, value in last.items() if name.endswith("_n10")}
    assert {"fid_n10", "sfid_n10", "precision_n10", "recall_n10", "saturation_n10"} <= set(scores)
    assert all(np.isfinite(value) for value in scores.values())


def test_the_likelihood_of_latents_equals_that_of_the_network(workdir, run_main, tmp_path):
    """The time-averaged bits/dim of an untrained network are near those of unit noise."""
    out = tmp_path / "nll.json"
    run_main("evaluate", "--metrics=nll", f"--workdir={workdir}", f"--out={out}")
    report = json.loads(out.read_text())
    assert report["num_samples"] == 12 and report["num_dims"] == 8 * 8 * 4
    assert [row["spectrum"] for row in report["rows"]] == [False, True]
    assert 0 < report["rows"][0]["nll"]["mean"] < 4


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.score_every=2"], "need autoencoder, inception and reference"),
        (["--config.score_every=2", "--config.score_samples=9"], "score_samples is 9"),
    ],
)
def test_impossible_scores_are_refused_before_the_run(train, tmp_path, arguments, said):
    with pytest.raises(cli.UserError, match=said):
        train(tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_training_leaves_losses_pictures_and_averages(workdir):
    with (workdir / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["2", "4", "6"]
    assert all(np.isfinite(float(row["eval_loss"])) for row in rows)
    pictures = sorted(path.name for path in (workdir / "samples").iterdir())
    assert pictures == ["step_00000003.png", "step_00000006.png"]
    best = min(rows, key=lambda row: float(row["eval_loss"]))
    assert [path.name for path in (workdir / "best").iterdir()] == [best["step"]]
    assert json.loads((workdir / "latents.json").read_text())["class_folders"] == ["china", "flower"]


def test_samples_are_decoded(workdir, run_main, tmp_path):
    out = tmp_path / "mine.png"
    run_main("sample", f"--workdir={workdir}", f"--autoencoder={_GOLDEN}", f"--out={out}", "--num_steps=1",
             "--classes=china,flower", "--num_samples=2")  # fmt: skip
    assert Image.open(out).format == "PNG"
    assert Image.open(tmp_path / "mine" / "00001_1_flower.png").size == (16, 16)


def test_export_writes_folders_of_final_best_and_rebuilt_averages(workdir, run_main, tmp_path):
    run_main("export", f"--workdir={workdir}", f"--autoencoder={_GOLDEN}", f"--out={tmp_path / 'final'}")
    run_main("export", f"--workdir={workdir}", "--average=best", f"--out={tmp_path / 'best'}")
    # For a stored width the stored average is returned.
    run_main("export", f"--workdir={workdir}", "--ema_std=0.1", f"--out={tmp_path / 'width'}")
    final, best, width = (interop.load_diffusers(tmp_path / name) for name in ("final", "best", "width"))
    assert set(final.networks) == {"model", "spectrum", "autoencoder"}
    assert set(best.networks) == {"model", "spectrum"}
    assert dict(final.id2label) == {0: "china", 1: "flower"}
    assert final.config == best.config
    different = jax.tree.map(lambda a, b: bool((a != b).any()), final.params, width.params)
    assert any(jax.tree.leaves(different))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--config.network.num_classes=3"], "network.num_classes is 3; give .*num_classes=2"),
        (["--config.network.input_size=16"], "latents are 8x8x4, but the network is made for 16x16x4"),
        (["--config.data.folder=/nowhere"], "holds no latents"),
        (["--config.data.folder="], "data.folder is empty"),
        (["--config.batch_size=7", "--config.mesh.data=3"], "there are 4 devices"),
        (["--config.batch_size=6"], "batch of 6 cannot be split over 4 devices"),
        (["--config.num_microbatches=3"], "cannot be cut into 3 microbatches"),
        (["--config.parallel=magic"], "parallel is 'magic'"),
        (["--config.profile_steps=5"], "profile_steps is '5'"),
        (["--config.post_hoc_ema.stds=(0.5,)"], "std is 0.5"),  # appended to the others
        (["--config.seed=1"], "seed was 0 and is now 1"),
    ],
)
def test_runs_that_cannot_be_trained_are_refused(train, workdir, arguments, said):
    with pytest.raises(cli.UserError, match=said):
        train(workdir, *arguments)


def test_references_are_read_as_the_latents_of_the_run_were(workdir, tmp_path):
    content = json.loads((workdir / "latents.json").read_text())
    assert content["exif_orientation"] is False
    (tmp_path / "latents.json").write_text(json.dumps(content | {"exif_orientation": True}))
    for flag, folder, expected in (
        (None, workdir, False), (None, tmp_path, True), (None, None, False), (False, tmp_path, False),
    ):  # fmt: skip
        given = types.SimpleNamespace(exif_orientation=flag, workdir=folder)
        assert options.exif_orientation(given) is expected


def test_another_autoencoder_is_refused(train, workdir, latents, run_main, tmp_path):
    bundle = interop.load_diffusers(_GOLDEN)
    scaled = jax.tree.map(lambda x: x * 1.5, bundle.autoencoder)
    interop.save_diffusers(tmp_path / "other", interop.Bundle(autoencoder=scaled))
    with pytest.raises(cli.UserError, match="were encoded by the autoencoder"):
        train(tmp_path / "run", f"--config.autoencoder={tmp_path / 'other'}")
    for program, out in (("sample", "picture.png"), ("export", "folder")):
        with pytest.raises(cli.UserError, match="were encoded by the autoencoder"):
            run_main(program, f"--workdir={workdir}", f"--autoencoder={tmp_path / 'other'}",
                     f"--out={tmp_path / out}")  # fmt: skip
        assert not (tmp_path / out).exists()


def test_other_latents_in_the_same_workdir_are_refused(train, workdir, photographs, run_main, tmp_path):
    run_main("prepare_latents", f"--images={photographs}", f"--autoencoder={_GOLDEN}",
             f"--out={tmp_path / 'other'}", "--image_size=16", "--format=sample")  # fmt: skip
    with pytest.raises(cli.UserError, match="another cache of latents"):
        train(workdir, folder=tmp_path / "other")


@pytest.mark.parametrize(
    ("program", "arguments", "said"),
    [
        ("sample", ["--out=x.png"], "Give --autoencoder"),
        ("sample", ["--out=x.png", "--average=best", "--batch_size=0"], "--batch_size must be at least 1"),
        ("export", ["--average=newest", "--out=x"], "no average 'newest'"),
        ("export", ["--ema_std=0.001", "--out=x"], "with an error of"),
        ("export", [], "--out is needed"),
        ("evaluate", [], "need --inception"),
    ],
)
def test_programs_refuse_impossible_options_for_a_run(workdir, run_main, program, arguments, said):
    with pytest.raises(cli.UserError, match=said):
        run_main(program, f"--workdir={workdir}", *arguments)
