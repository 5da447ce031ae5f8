"""From photographs to scores and an exported network, with every file in a bucket."""

import json
import secrets

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from gmflow_jax import evaluation, interop
from gmflow_jax._files import to_path, upload_folder
from tests.bucket_server import BUCKET
from tests.experiments.training_process import TINY_PHOTOGRAPHS

_GOLDEN = "tests/golden/autoencoder"
_SIZES = (
    *TINY_PHOTOGRAPHS, "--config.num_steps=4", "--config.checkpoint_every=2", "--config.sample_every=4",
    "--config.network.num_classes=2",
)  # fmt: skip
_RUN = ("--workdir={root}/run", "--autoencoder={root}/autoencoder")
_CHAIN = [
    [
        "prepare_latents", "--images={root}/photographs", "--autoencoder={root}/autoencoder",
        "--out={root}/latents", "--image_size=16", "--images_per_shard=8",
    ],
    [
        "train", *_SIZES, "--workdir={root}/run", "--config.data.folder={root}/latents",
        "--config.autoencoder={root}/autoencoder",
    ],
    [
        "sample", *_RUN, "--num_steps=1", "--num_samples=12", "--out={root}/grid.png",
        "--samples_out={root}/samples.npz",
    ],
    ["evaluate", "--metrics=nll", "--workdir={root}/run"],
    [
        "evaluate", "--samples={root}/samples.npz", "--inception={root}/inception.safetensors",
        "--reference={root}/photographs", "--metrics=colours", "--reference_out={root}/kept.npz",
        "--out={root}/report.json",
    ],
    [
        "sweep", "--config=experiments/configs/sweep_digits.py", *_RUN, "--config.num_samples=8",
        "--inception={root}/inception.safetensors", "--reference={root}/kept.npz",
        "--metrics=fid,precision_recall", "--config.num_steps=(1,)", "--config.guidance_scales=(0.3,)",
        "--config.rows=({'name': 'A', 'solver': 'euler'},)", "--out={root}/sweep",
    ],
    ["export", *_RUN, "--out={root}/exported"],
]  # fmt: skip
_REPORTS = ("run/nll_report.json", "report.json", "sweep/sweep.json", "sweep/cells/A_steps1_w0.3.json")


@pytest.fixture
def local(inception, tmp_path):
    """A local folder with photographs, an autoencoder and the weights of Inception."""
    for name, photo in zip(("china", "flower"), load_sample_images().images, strict=True):
        (tmp_path / "photographs" / name).mkdir(parents=True)
        for i in range(6):
            cut = photo[40 * i : 40 * i + 100, 60 * i : 60 * i + 120]
            Image.fromarray(cut).save(tmp_path / "photographs" / name / f"{i}.jpg")
    interop.save_diffusers(tmp_path / "autoencoder", interop.load_diffusers(_GOLDEN))
    (tmp_path / "inception.safetensors").write_bytes(inception.read_bytes())
    return tmp_path


@pytest.fixture
def remote(local, bucket_url):
    """The same in a bucket."""
    root = to_path(f"gs://{BUCKET}/{secrets.token_hex(4)}")
    upload_folder(local, root)
    return root


@pytest.mark.slow
def test_everything_from_photographs_on_is_the_same_in_a_bucket(local, remote, run_main):
    for root in (local, remote):
        for program, *arguments in _CHAIN:
            run_main(program, *(argument.replace("{root}", str(root)) for argument in arguments))
    for name in _REPORTS:
        ours, theirs = ((root / name).read_text().replace(str(root), "ROOT") for root in (remote, local))
        assert json.loads(ours) == json.loads(theirs), name
    samples = [next(evaluation.npz_rows(root / "samples.npz", "arr_0", 12)) for root in (remote, local)]
    np.testing.assert_array_equal(*samples)
    written = [path for path in (local / "exported").rglob("*") if path.is_file()]
    assert len(written) >= 8
    for path in [*written, local / "grid.png", local / "kept.npz", local / "run" / "metrics.csv"]:
        name = path.relative_to(local).as_posix()
        if name.endswith(("csv", "npz")):  # seconds and times of day differ
            assert (remote / name).is_file()
        else:
            assert (remote / name).read_bytes() == path.read_bytes(), name
