"""Photographs cut into small image files, damaged ones among them, and an autoencoder to encode them."""

import dataclasses
import io
import pathlib
import tarfile

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_sample_images

from gmflow_jax import data, models
from tests.helpers import fast_compilation

CONFIG = models.AutoencoderKLConfig(
    latent_channels=2, block_channels=(4, 8), layers_per_block=1, num_groups=2
)
IMAGE_SIZE = 32
TRUNCATED = "n02/truncated.JPEG"


def image_files() -> dict[str, bytes]:
    """Return 16 files of two classes by name, in all formats that ImageNet has."""
    rng, files = np.random.default_rng(0), {}

    def save(name, image, format="JPEG"):
        buffer = io.BytesIO()
        image.save(buffer, format)
        files[name] = buffer.getvalue()

    for folder, photo in zip(("n01", "n02"), load_sample_images().images, strict=True):
        for i in range(5):
            (top, left), (height, width) = rng.integers(0, 200, 2), rng.integers(40, 200, 2)
            save(f"{folder}/{folder}_{i}.JPEG", Image.fromarray(photo[top:top + height, left:left + width]))
        cut = Image.fromarray(photo[100:190, 200:330])
        save(f"{folder}/cmyk.JPEG", cut.convert("CMYK"))
        save(f"{folder}/grey.JPEG", cut.convert("L"))
    save("n01/photo.png", cut, "PNG")
    save(TRUNCATED, cut)
    files[TRUNCATED] = files[TRUNCATED][:1500]
    return files


def write_tar(path: pathlib.Path, files: dict[str, bytes]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def small_autoencoder(scaling_factor: float = 0.5) -> models.AutoencoderKL:
    config = dataclasses.replace(CONFIG, scaling_factor=scaling_factor)
    rng = np.random.default_rng(1)
    draw = lambda leaf: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32)  # noqa: E731
    params = jax.tree.map(draw, models.abstract(models.AutoencoderKL, config)[1])
    return models.from_params(models.AutoencoderKL, config, params)


def likelier_noise(x, mean, std) -> tuple[np.ndarray, np.ndarray]:
    """Return which of two views x [n, ...] was more likely drawn from, [n], and the noise for that view.

    `mean` and `std` are [n, 2, ...].
    """
    noise = (x[:, None] - mean) / std
    drawn = (noise**2 / 2 + np.log(std)).sum(axis=tuple(range(2, noise.ndim))).argmin(axis=1)
    return drawn, noise[np.arange(len(x)), drawn]


@pytest.fixture(scope="session", name="likelier_noise")
def _likelier_noise():
    return likelier_noise


@pytest.fixture(scope="session")
def files():
    return image_files()


@pytest.fixture(scope="session")
def image_folder(files, tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    for name, content in files.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_bytes(content)
    return root


@pytest.fixture(scope="session")
def source(image_folder):
    return data.open_images(image_folder)


@pytest.fixture(scope="session")
def image_tar(files, tmp_path_factory):
    """A tar that contains one tar for each class, as ILSVRC2012_img_train.tar does."""
    root, inner = tmp_path_factory.mktemp("tars"), {}
    for folder in ("n02", "n01"):
        own = {name.split("/")[1]: f for name, f in files.items() if name.startswith(folder)}
        write_tar(root / "inner", own)
        inner[f"{folder}.tar"] = (root / "inner").read_bytes()
    (root / "inner").unlink()
    write_tar(root / "train.tar", inner)
    return root / "train.tar"


@pytest.fixture(scope="session")
def autoencoder():
    return small_autoencoder()


@pytest.fixture(scope="session")
def write(autoencoder):
    """write(source, out, **options): `write_latents` with few images in a shard, compiled quickly."""

    def call(source, out, autoencoder=autoencoder, **options):
        defaults = {"image_size": IMAGE_SIZE, "images_per_shard": 4, "batch_size": 4, "progress": False}
        with fast_compilation():
            return data.write_latents(source, autoencoder, out, **defaults | options)

    return call


@pytest.fixture(scope="session")
def moments_folder(source, write, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents") / "moments"
    write(source, folder)
    return folder


@pytest.fixture(scope="session")
def sample_folder(source, write, tmp_path_factory):
    folder = tmp_path_factory.mktemp("latents") / "sample"
    write(source, folder, format="sample", container="npy", seed=3)
    return folder


@pytest.fixture
def tar_writer():
    return write_tar
