"""experiments.prepare_latents encodes, resumes where it stopped, and refuses impossible options."""

import jax
import numpy as np
import pytest
from absl import flags
from PIL import Image
from sklearn.datasets import load_sample_images

from experiments.common import cli
from experiments.configs import base
from experiments.tasks.latents import LatentTask
from gmflow_jax import data, interop, models

CONFIG = models.AutoencoderKLConfig(
    latent_channels=2, block_channels=(4,), layers_per_block=1, num_groups=2
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of images and of an autoencoder, and a file of class names."""
    root = tmp_path_factory.mktemp("prepare")
    for folder, photo in zip(("n01", "n02"), load_sample_images().images, strict=True):
        (root / "images" / folder).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(photo[50 * i:, 70 * i:]).save(root / "images" / folder / f"{i}.JPEG")
    (root / "images" / "n02" / "3.JPEG").write_bytes(b"no image")
    rng = np.random.default_rng(0)
    params = jax.tree.map(
        lambda leaf: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32),
        models.abstract(models.AutoencoderKL, CONFIG)[1],
    )
    autoencoder = models.from_params(models.AutoencoderKL, CONFIG, params)
    interop.save_diffusers(root / "network", interop.Bundle(autoencoder=autoencoder))
    (root / "names.txt").write_text("n01 temple\nn02 flower, blossom\n")
    return root


@pytest.fixture
def prepare(folders, run_main, tmp_path):
    def run(*arguments, autoencoder="network", images="images"):
        inputs = {"images": folders / images, "autoencoder": folders / autoencoder}
        sizes = {"image_size": 8, "images_per_shard": 3, "batch_size": 4}
        options = [f"--{name}={value}" for name, value in (inputs | sizes).items()]
        run_main("prepare_latents", f"--out={tmp_path / 'out'}", *options, *arguments)

    return run


def test_encoding_by_two_processes_with_class_names(prepare, folders, tmp_path, capsys):
    names = f"--class_names={folders / 'names.txt'}"
    prepare("--num_processes=2", "--process_id=0", names)
    assert "shards of other processes are still" in capsys.readouterr().out
    with pytest.raises(ValueError, match="not finished"):
        data.Latents(tmp_path / "out")
    prepare("--num_processes=2", "--process_id=1", names, autoencoder="network/vae")
    out = capsys.readouterr().out
    assert "7 images of 2 classes" in out and "n02/3.JPEG" in out
    assert "holds 6 latents (8, 8, 2) in 3 files" in out and "1 broken images were left out" in out
    latents = data.Latents(tmp_path / "out")
    assert latents.metadata.class_names == {"n01": "temple", "n02": "flower, blossom"}
    bundle = interop.load_diffusers(folders / "network")
    data.check_autoencoder(latents.metadata, bundle.autoencoder)
    assert latents.read([5])["mean"].shape == (1, 2, 8, 8, 2)


def test_samples_are_written_to_arrays(prepare, tmp_path):
    prepare("--format=sample", "--container=npy", "--seed=4")
    latents = data.Latents(tmp_path / "out")
    assert (latents.metadata.format, latents.metadata.container) == ("sample", "npy")
    assert latents.read([0])["sample"].shape == (1, 8, 8, 2)


@pytest.mark.parametrize(
    ("arguments", "folders_of", "reason"),
    [
        (["--broken=stop"], {}, r"The image n02/3\.JPEG is broken"),
        (["--image_size=0"], {"images": "absent"}, "give a positive multiple"),  # before they are listed
        (["--class_names=absent.txt"], {}, "no file absent.txt"),
        ([], {"images": "absent"}, "no folder or file"),
        ([], {"autoencoder": "absent"}, "no folder .*absent"),
        (["--images="], {}, "--images is needed"),
        (["--process_id=2", "--num_processes=2"], {}, "process_index is 2 of 2"),
    ],
)
def test_bad_input_is_refused(prepare, arguments, folders_of, reason):
    with pytest.raises(cli.UserError, match=reason):
        prepare(*arguments, **folders_of)


@pytest.fixture
def bucket_folders(folders, bucket):
    """The folders and the file in a bucket."""
    for path in folders.rglob("*"):
        if path.is_file():
            bucket.fs.pipe_file(f"{bucket.path}/{path.relative_to(folders)}", path.read_bytes())
    return bucket


def test_everything_may_be_in_a_bucket(prepare, folders, bucket_folders, tmp_path, capsys):
    prepare(f"--class_names={folders / 'names.txt'}")
    names = ("images", "autoencoder", "out", "class_names")
    places = dict(zip(names, ("images", "network", "out", "names.txt"), strict=True))
    addresses = [f"--{name}={bucket_folders}/{place}" for name, place in places.items()]
    capsys.readouterr()
    prepare(*addresses, "--num_processes=2", "--process_id=1")
    prepare(*addresses, "--num_processes=2")
    assert f"{bucket_folders}/out holds 6 latents (8, 8, 2) in 3 files" in capsys.readouterr().out
    found = {path.name: path.read_bytes() for path in (bucket_folders / "out").iterdir()}
    assert found == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    config = base.get_config()
    config.data.update(folder=f"{bucket_folders}/out", cache=str(tmp_path / "cache"))
    network = models.GMDiTConfig(input_size=8, in_channels=2, num_classes=2)
    task = LatentTask(config, network)
    assert not (tmp_path / "cache").exists()  # programs that do not train fetch nothing
    batch = data.LatentBatches(data.Latents(tmp_path / "out"), 4)(1)
    np.testing.assert_array_equal(task.batches(4, seed=0)(1)["x_0"], batch["x_0"])
    assert len(list((tmp_path / "cache").glob("*/*.array_record"))) == 2  # the third has no record
    config.data.cache_gib = 1e-9
    with pytest.raises(ValueError, match=r"need .* in the cache .* bound is 1e-09 GiB; give a larger"):
        LatentTask(config, network)


@pytest.mark.parametrize(
    ("argument", "reason"),
    [
        ("--images=gs://missing/images", "gs://missing/images: there is no such bucket"),
        ("--images={}/absent", "no folder or file gs://"),
        ("--out=gs://missing/out", "gs://missing/out: there is no such bucket"),
        ("--autoencoder={}/vae", "no folder gs://.*/vae for the autoencoder"),
        ("--class_names={}/names", "no file gs://.*/names"),
    ],
)
def test_bad_addresses_are_refused(prepare, bucket, argument, reason, tmp_path):
    with pytest.raises(cli.UserError, match=reason):
        prepare(argument.format(bucket))
    assert not (tmp_path / "out").exists()


def test_flags_out_of_range_are_named(prepare):
    for name in ("num_processes", "num_threads"):
        with pytest.raises(flags.IllegalFlagValueError, match=f"--{name}=0.* positive"):
            prepare(f"--{name}=0")


def test_the_benchmark_needs_its_folder(run_main, bucket_url):
    with pytest.raises(cli.UserError, match=r"no folder /nonexistent; make it"):
        run_main("benchmarks.data", "--folder=/nonexistent")
    with pytest.raises(cli.UserError, match=r"gs://missing/f.*there is no such bucket"):
        run_main("benchmarks.data", "--bucket=gs://missing/f")


def test_the_benchmark_reads_a_bucket_and_removes_what_it_wrote(run_main, bucket, tmp_path, capsys):
    sizes = ("--num_records=6", "--num_shards=2", "--global_batch_size=4", "--num_hosts=2", "--num_threads=0")
    run_main("benchmarks.data", f"--bucket={bucket}", f"--folder={tmp_path}", "--seconds=0", *sizes)
    out = capsys.readouterr().out
    assert all(out.count(f"{name} in {where}") == 2 for name in ("npy", "array_record")
               for where in ("bucket", "cache"))  # fmt: skip
    assert not bucket.is_dir() and not list(tmp_path.iterdir())
