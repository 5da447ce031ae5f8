"""Programs for published networks: sample --checkpoint, export, download and the full-size benchmark."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from experiments.common import cli
from gmflow_jax import pipeline


def test_sample_writes_a_grid_single_pictures_and_samples(checkpoint, tmp_path, run_main, capsys):
    out, samples_out = tmp_path / "birds.png", tmp_path / "birds.npz"
    run_main(
        "sample", f"--checkpoint={checkpoint}", "--classes=jay,great white heron/egret", "--num_samples=3",
        "--num_steps=2", f"--out={out}", f"--samples_out={samples_out}",
    )  # fmt: skip
    said = capsys.readouterr()
    assert "s an image" in said.out and "2/2" in said.err
    samples = np.load(samples_out)
    assert list(samples["labels"]) == [0, 3, 0]
    pipe = pipeline.load(checkpoint)
    expected = pipe([0, 3, 0], num_steps=2, progress=False)  # with the authors' defaults
    np.testing.assert_array_equal(samples["arr_0"], expected)
    pictures = sorted((tmp_path / "birds").iterdir())
    assert [p.name for p in pictures] == [
        "00000_0_jay.png", "00001_3_great_white_heron_egret.png", "00002_0_jay.png",
    ]  # fmt: skip
    for picture, image in zip(pictures, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(picture)), image)
    assert out.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--classes=10"], "label 10 is out of range"),
        (["--classes=a jay in the snow"], "takes no text prompts"),
        (["--solver=magic"], "no solver 'magic'"),
        (["--order=3"], "order must be 1 or 2"),
        (["--batch_size=0"], "--batch_size must be at least 1"),
        (["--guidance_scale=1"], "guidance"),
        (["--spectrum"], "Only gm_sde draws with a spectrum"),
        (["--seed=4294967296"], "--seed must be from 0"),
        (["--workdir=runs/digits"], "either --workdir"),
        (["--checkpoint=nowhere"], "no folder nowhere"),
    ],
)
def test_sample_refuses_impossible_options(checkpoint, tmp_path, run_main, arguments, said):
    with pytest.raises(cli.UserError, match=said):
        run_main("sample", f"--checkpoint={checkpoint}", f"--out={tmp_path / 'x.png'}", *arguments)
    assert not list(tmp_path.iterdir())


def test_a_file_in_place_of_the_output_folder_is_refused_before_sampling(checkpoint, tmp_path, run_main):
    (tmp_path / "birds").write_text("notes")
    with pytest.raises(cli.UserError, match="birds exists and is a file"):
        run_main("sample", f"--checkpoint={checkpoint}", f"--out={tmp_path / 'birds.png'}")
    assert (tmp_path / "birds").read_text() == "notes"


def test_export_writes_the_sampler_and_its_parameters(checkpoint, tmp_path, run_main, capsys):
    out = tmp_path / "sampler.jaxexport"
    run_main("export", f"--checkpoint={checkpoint}", "--num_steps=1", f"--out={out}")
    assert {p.name for p in tmp_path.iterdir()} == {"sampler.jaxexport", "sampler.safetensors"}
    assert str(out) in capsys.readouterr().out
    for arguments, said in (([], "Give either --workdir"), (["--checkpoint=nowhere"], "no folder nowhere")):
        with pytest.raises(cli.UserError, match=said):
            run_main("export", *arguments)


def test_download_reports_errors(run_main):
    with pytest.raises(cli.UserError, match="The hub does not give a//b"):
        run_main("download", "--repo_id=a//b")


def test_the_full_size_benchmark_measures_any_checkpoint(checkpoint):
    command = [sys.executable, "-m", "experiments.benchmarks.full_size", f"--folder={checkpoint}"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
    assert "of the parameters" in result.stdout and "TFLOP" in result.stdout
