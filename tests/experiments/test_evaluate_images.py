"""experiments.evaluate for images of a checkpoint, a file or a folder, in one process and in two."""

import json

import numpy as np
import pytest
from PIL import Image

from experiments.common import cli
from gmflow_jax import evaluation, pipeline
from tests.experiments.training_process import finish, joined, start_program

_NUM = 10
_QUICK = "--metrics=inception_score,precision_recall,kid,colours"


@pytest.fixture(scope="module")
def drawn(checkpoint, run_main, tmp_path_factory):
    """Pictures, ten classes in turn: as an .npz and as a folder, and those of `experiments.sample`.

    The evaluation draws without a progress bar, in one program. `experiments.sample` has a bar, so it draws
    step by step, and single values are rounded to their neighbour.
    """
    folder = tmp_path_factory.mktemp("drawn")
    pipe = pipeline.load(checkpoint)
    labels = np.resize(np.arange(pipe.bundle.config.num_classes), _NUM).tolist()
    images = pipe(labels, num_steps=1, num_substeps=2, progress=False)
    np.savez(folder / "pictures.npz", arr_0=images)
    (folder / "pictures").mkdir()
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / "pictures" / f"{i}.png")
    run_main(
        "sample", f"--checkpoint={checkpoint}", f"--num_samples={_NUM}", "--num_steps=1", "--num_substeps=2",
        f"--out={folder / 'sampled.png'}", f"--samples_out={folder / 'sampled.npz'}",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """An image file in ADM's format, whose statistics belong to other images."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("reference") / "adm.npz"
    noise = rng.integers(0, 256, (12, 16, 16, 3), np.uint8)
    np.savez(path, arr_0=noise, mu_s=np.zeros(2023), sigma_s=np.eye(2023))
    return path


@pytest.fixture(scope="module")
def evaluate(inception, reference, run_main, tmp_path_factory):
    def run(*arguments):
        out = tmp_path_factory.mktemp("reports") / "report.json"
        run_main("evaluate", f"--inception={inception}", f"--reference={reference}", f"--out={out}",
                 *arguments)  # fmt: skip
        return json.loads(out.read_text())

    return run


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The folder in which the features of the reference are kept."""
    return tmp_path_factory.mktemp("reference") / "kept.npz"


@pytest.fixture(scope="module")
def of_checkpoint(evaluate, checkpoint, kept):
    return evaluate(f"--checkpoint={checkpoint}", f"--num_samples={_NUM}", "--labels=balanced",
                    "--num_steps=1", "--num_substeps=2", f"--reference_out={kept}", _QUICK)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("samples", ["pictures.npz", "pictures"])
def test_a_checkpoint_scores_as_its_pictures_in_a_file_and_in_a_folder(
    of_checkpoint, evaluate, drawn, kept, capsys, samples
):
    (row,) = of_checkpoint["rows"]
    assert row["cell"]["solver"] == "gm_ode" and row["cell"]["num_substeps"] == 2
    assert row["cell"]["guidance_scale"] == 0.45
    capsys.readouterr()  # of the fixtures
    scores = evaluate(f"--samples={drawn / samples}", f"--reference={kept}", _QUICK)["scores"]
    assert scores == pytest.approx(row["scores"], rel=1e-9)
    assert "reference" not in capsys.readouterr().err  # its images were not looked at again
    images = np.load(drawn / "pictures.npz")["arr_0"]
    assert scores["saturation"] == pytest.approx(evaluation.saturation(images).mean(), rel=1e-12)


@pytest.mark.slow
def test_sample_draws_the_pictures_that_are_scored(drawn):
    scored, sampled = (np.load(drawn / f"{name}.npz")["arr_0"] for name in ("pictures", "sampled"))
    levels = np.abs(sampled.astype(int) - scored)
    assert levels.max() <= 1 and (levels > 0).mean() < 1e-3
    written = np.stack([np.asarray(Image.open(path)) for path in sorted((drawn / "sampled").glob("*.png"))])
    np.testing.assert_array_equal(written, sampled)


@pytest.mark.slow
def test_the_report_records_the_settings(of_checkpoint, reference):
    assert set(of_checkpoint["weights_sha256"]) == {"model", "spectrum", "autoencoder"}
    assert all(len(digest) == 64 for digest in of_checkpoint["weights_sha256"].values())
    assert of_checkpoint["reference"]["num_images"] == 12 and len(of_checkpoint["reference"]["sha256"]) == 64
    assert of_checkpoint["labels"] == "balanced" and of_checkpoint["num_samples"] == _NUM
    assert of_checkpoint["seeds"] == [0] and "fold_in" in of_checkpoint["seed_rule"]
    assert "299 x 299" in of_checkpoint["inception"]["input"]
    assert {"jax", "numpy", "gmflow_jax", "devices"} <= set(of_checkpoint["versions"])


@pytest.mark.slow
def test_two_processes_draw_together(of_checkpoint, checkpoint, inception, kept, tmp_path):
    """KID has an absolute tolerance because it is a difference of means near 1."""
    asked = (f"--checkpoint={checkpoint}", f"--inception={inception}", f"--reference={kept}",
             f"--num_samples={_NUM}", "--labels=balanced", "--num_steps=1", "--num_substeps=2", _QUICK,
             f"--out={tmp_path / 'report.json'}")  # fmt: skip
    for process in [start_program(tmp_path, "evaluate", *asked, *flags) for flags in joined()]:
        finish(process, tmp_path / "report.json")
    (found,) = json.loads((tmp_path / "report.json").read_text())["rows"]
    (expected,) = of_checkpoint["rows"]
    assert found["scores"] == pytest.approx(expected["scores"], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--checkpoint=nowhere", "--samples=x.npz"], "Give exactly one of --workdir"),
        (["--checkpoint=nowhere"], "no folder nowhere"),
        (["--samples=nowhere.npz"], "nowhere.npz"),
        (["--samples=nowhere"], "no folder or file nowhere"),
        (["--samples=nowhere.npz", "--inception="], "need --inception"),
        (["--samples=nowhere.npz", "--reference_out=kept.pkl"], "must end in .npz"),
        (["--samples=nowhere.npz", "--reference_out=no/kept.npz"], "folder of no/kept.npz does not exist"),
        (["--samples=nowhere.npz", "--guidance_scale=0.1"], "--guidance_scale is for images that a"),
        (["--samples=nowhere.npz", "--solvers=gm_pc"], "no effect on samples"),
        (["--samples=nowhere.npz", "--average=best"], "--average cannot be used here: the samples have been"),
        (["--samples=nowhere.npz", "--out=report.txt"], "must end in .json"),
        (["--samples=nowhere.npz", "--metrics=nll"], "--metrics=nll needs a run"),
    ],
)
def test_impossible_options_are_refused(evaluate, arguments, said):
    with pytest.raises(cli.UserError, match=said):
        evaluate(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--metrics=fun"], "no metric 'fun'"),
        (["--num_samples=5"], "5 images are too few for inception_score"),
        (["--guidance=cfg"], "at least 1 for classifier-free"),
        (["--orthogonal=7"], "orthogonal must be between 0 and 1"),
        (["--num_steps=4,4"], "both called"),
        (["--ema_std=0.1"], "--ema_std cannot be used here: a checkpoint contains its"),
        (["--metrics=nll"], "--metrics=nll needs a run"),
        (["--guidance=cfg", "--guidance_scale=inf"], "guidance_scale is inf"),
        (["--guidance_scale=nan"], r"guidance_scale must be in \[0, 1\)"),
        (["--seed=-1"], "seed is -1"),
        (["--solvers=magic"], "no solver 'magic'"),
        (["--num_steps=0"], "num_steps must be at least 1"),
        (["--num_steps=a"], "--num_steps must be a list"),
    ],
)
def test_impossible_samples_are_refused_before_drawing(evaluate, checkpoint, arguments, said):
    with pytest.raises(cli.UserError, match=said):
        evaluate(f"--checkpoint={checkpoint}", *arguments)


def test_a_folder_of_pictures_of_several_sizes_is_refused(evaluate, tmp_path):
    for i, size in enumerate((16, 20)):
        Image.new("RGB", (size, size)).save(tmp_path / f"{i}.png")
    with pytest.raises(cli.UserError, match="have 16 x 16 and 20 x 20 pixels"):
        evaluate(f"--samples={tmp_path}")


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"arr_0": np.full((2, 8, 8, 3), 0.5)}, r"in \[0, 1\]"),
        ({"arr_0": np.zeros((0, 8, 8, 3), np.uint8)}, "at least one image"),
        ({"samples": np.zeros((2, 8, 8, 3), np.uint8)}, "no array 'arr_0'"),
    ],
)
def test_samples_that_are_not_images_are_refused(evaluate, arrays, said, tmp_path):
    np.savez(tmp_path / "samples.npz", **arrays)
    with pytest.raises(cli.UserError, match=said):
        evaluate(f"--samples={tmp_path / 'samples.npz'}")
