"""Stored latents equal the autoencoder's for every source, container and number of devices and processes."""

import hashlib
import io
import json

import jax
import numpy as np
import pytest
from PIL import Image

from gmflow_jax import data, models

FP16 = 2.0**-11  # half a unit in the last place
ROUNDING = 2e-5  # of the network in float32; measured 3e-6


def digests(folder):
    """SHA-256 of every file, by name."""
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def all_of(folder):
    latents = data.Latents(folder)
    return latents.read(np.arange(len(latents)))


@pytest.fixture(scope="module")
def expected(source, autoencoder):
    """Mean and standard deviation [15, 2, 2, 16, 16, 2] of images and mirror images, encoded directly."""
    kept = [i for i in range(len(source)) if "truncated" not in source.name(i)]
    crops = np.stack([data.center_crop(source.open(i), 32) for i in kept]).astype(np.float32) / 127.5 - 1
    encode, params = models.functional(autoencoder, "encode")
    moments = [jax.jit(encode)(params, images) for images in (crops, crops[:, :, ::-1])]
    pairs = [(mean, np.exp(np.asarray(log_var, np.float64) / 2)) for mean, log_var in moments]
    return np.stack([np.stack(pair, axis=1) for pair in pairs], axis=1)


def test_stored_moments_equal_those_of_the_autoencoder(moments_folder, expected):
    found = all_of(moments_folder)
    for i, name in enumerate(("mean", "std")):
        assert found[name].dtype == np.float32
        np.testing.assert_allclose(found[name], expected[:, :, i], rtol=FP16 + ROUNDING, atol=ROUNDING)
    assert np.abs(expected[:, 0] - expected[:, 1]).max() > 0.1  # mirroring matters


def test_samples_are_draws_of_image_or_mirror_image(sample_folder, expected, likelier_noise):
    samples = all_of(sample_folder)["sample"]
    drawn, noise = likelier_noise(samples, expected[:, :, 0], expected[:, :, 1])
    assert 3 <= drawn.sum() <= 12  # of 15
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size) and abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    assert len(np.unique(noise)) > 0.99 * noise.size


def test_metadata_is_complete(moments_folder, sample_folder, source, autoencoder):
    metadata = data.Latents(moments_folder).metadata
    assert metadata.num_images == 15 and metadata.num_classes == 2 and metadata.image_size == 32
    assert metadata.broken == ("n02/truncated.JPEG",) and metadata.class_folders == ("n01", "n02")
    assert metadata.latent_shape == (16, 16, 2) and metadata.downscale == 2
    assert metadata.autoencoder == data.autoencoder_fingerprint(autoencoder)
    assert metadata.source == source.description and metadata.class_names == {}
    assert [shard.num_records for shard in metadata.shards] == [4, 4, 4, 3]
    assert (metadata.format, metadata.container) == ("moments", "array_record")
    other = data.Latents(sample_folder).metadata
    assert (other.format, other.container) == ("sample", "npy")


def test_stored_labels_and_indices_equal_those_of_the_source(moments_folder, source):
    records = data.Latents(moments_folder).records(np.arange(15))
    np.testing.assert_array_equal(records["label"], source.labels[records["index"]])
    left_out = set(range(16)) - set(records["index"].tolist())
    assert [source.name(i) for i in left_out] == ["n02/truncated.JPEG"]


def test_tars_give_the_same_bytes(image_tar, moments_folder, write, tmp_path):
    write(data.open_images(image_tar), tmp_path)
    found, expected = digests(tmp_path), digests(moments_folder)
    assert {name for name in expected if found[name] != expected[name]} == {"plan.json", "metadata.json"}
    for name in ("plan.json", "metadata.json"):
        mine, theirs = (json.loads((f / name).read_text()) for f in (tmp_path, moments_folder))
        assert mine.pop("source") | {"kind": "folder"} == theirs.pop("source") and mine == theirs


def test_devices_containers_and_batches_change_rounding_only(source, moments_folder, write, tmp_path):
    options = {"devices": jax.devices()[:1], "batch_size": 3, "container": "npy"}
    write(source, tmp_path / "a", **options)
    one, four = all_of(tmp_path / "a"), all_of(moments_folder)
    for name in ("mean", "std"):
        np.testing.assert_allclose(one[name], four[name], rtol=2 * FP16 + ROUNDING, atol=ROUNDING)
    np.testing.assert_array_equal(one["labels"], four["labels"])


def test_processes_share_the_shards(source, moments_folder, write, tmp_path):
    assert write(source, tmp_path, process_index=1, num_processes=2) is None
    assert not (tmp_path / "metadata.json").exists()
    metadata = write(source, tmp_path, process_index=0, num_processes=2)
    assert metadata == data.Latents(moments_folder).metadata
    assert digests(tmp_path) == digests(moments_folder)


def test_class_names_may_be_given_afterwards(source, moments_folder, write, tmp_path):
    write(source, tmp_path)
    before = digests(tmp_path)
    words = {"n01": "temple", "n02": "flower, blossom", "n03": "of no image"}
    metadata = write(source, tmp_path, class_names=words)
    assert metadata.class_names == {"n01": "temple", "n02": "flower, blossom"}
    after = digests(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {"metadata.json"}


def test_progress_lists_broken_images(source, write, tmp_path, capsys):
    write(source, tmp_path, progress=True)
    captured = capsys.readouterr()
    assert "left out (1; broken='stop' says why):\n  n02/truncated.JPEG" in captured.out
    assert "16/16" in captured.err and "images/s" in captured.err


def test_a_broken_image_stops_the_run_or_is_skipped(source, moments_folder, write, tmp_path):
    with pytest.raises(ValueError, match=r"image n02/truncated\.JPEG is broken \(.*\); repair or remove it"):
        write(source, tmp_path, broken="stop")
    assert len(list(tmp_path.glob("*.array_record"))) == 3  # the truncated one is the last
    write(source, tmp_path, broken="skip")
    assert digests(tmp_path) == digests(moments_folder)


def test_latents_that_are_not_finite_are_refused(source, autoencoder, write, tmp_path):
    params = jax.tree.map(lambda leaf: 1e6 * leaf, models.functional(autoencoder)[1])
    wrong = models.from_params(models.AutoencoderKL, autoencoder.config, params)
    with pytest.raises(ValueError, match=r"latent of image 0 is not finite or too large.*; check"):
        write(source, tmp_path, autoencoder=wrong)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"format": "mean"}, "format is 'mean'; give one of moments, sample"),
        ({"container": "tfrecord"}, "container is 'tfrecord'; give"),
        ({"broken": "mend"}, "broken is 'mend'; give"),
        ({"images_per_shard": 0}, "images_per_shard is 0 .*; give"),
        ({"batch_size": 0}, "batch_size 0.*; give"),
        ({"seed": -1}, "seed is -1, .*; give 0 or more"),
        ({"image_size": 33}, "image_size is 33, .*; give a positive multiple"),
        ({"process_index": 2, "num_processes": 2}, "process_index is 2 of 2 .*give one below"),
        ({"class_names": {"n01": "temple"}}, "No name .* for 1 of 2 classes, such as n02; class_names"),
    ],
)
def test_bad_options_are_refused(source, write, tmp_path, options, reason):
    with pytest.raises(ValueError, match=reason):
        write(source, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_other_settings_and_other_files_are_refused(source, image_tar, moments_folder, write, tmp_path):
    with pytest.raises(ValueError, match=r"differs in format \(\"moments\" there, \"sample\" here\), seed"):
        write(source, moments_folder, format="sample")
    with pytest.raises(ValueError, match=r"differs in source .*; give another folder"):
        write(data.open_images(image_tar), moments_folder)
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(ValueError, match=r"holds other files; give a new folder"):
        write(source, tmp_path)


def test_photographs_turned_upright_are_noted(tmp_path, files, write):
    upright = Image.open(io.BytesIO(files["n01/photo.png"]))
    exif = Image.Exif()
    exif[0x0112] = 6
    for folder, options in (("turned", {"exif": exif}), ("upright", {})):
        (tmp_path / folder / "n01").mkdir(parents=True)
        stored = upright.rotate(90, expand=True) if options else upright
        stored.save(tmp_path / folder / "n01" / "a.png", **options)
    turned, straight = (data.open_images(tmp_path / folder) for folder in ("turned", "upright"))
    assert write(turned, tmp_path / "a", exif_orientation=True, container="npy").exif_orientation
    assert not write(straight, tmp_path / "b", container="npy").exif_orientation
    (shard,) = (path.name for path in (tmp_path / "a").glob("*.npy"))
    assert (tmp_path / "a" / shard).read_bytes() == (tmp_path / "b" / shard).read_bytes()
    with pytest.raises(ValueError, match=r"differs in exif_orientation \(true there, false here\)"):
        write(turned, tmp_path / "a", container="npy")
    plan = tmp_path / "b" / "plan.json"  # of a version without this option
    plan.write_text(json.dumps({k: v for k, v in json.loads(plan.read_text()).items() if "exif" not in k}))
    assert write(straight, tmp_path / "b", container="npy").num_images == 1


def test_a_source_of_broken_images_only_is_refused(files, write, tmp_path):
    (tmp_path / "images" / "n02").mkdir(parents=True)
    (tmp_path / "images" / "n02" / "1.jpg").write_bytes(files["n02/truncated.JPEG"])
    source = data.open_images(tmp_path / "images")
    with pytest.raises(ValueError, match=r"All images are broken.*; repair them"):
        write(source, tmp_path / "out")
    (tmp_path / "images" / "n02" / "1.jpg").write_bytes(files["n01/photo.png"])
    assert write(source, tmp_path / "out").num_images == 1
    with pytest.raises(ValueError, match=r"1\.jpg is a file, .*; give a folder"):
        write(source, tmp_path / "images" / "n02" / "1.jpg")
