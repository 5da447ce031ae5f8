"""Latents are drawn from their moments; order and noise depend on position and seed only."""

import json
import pickle
import shutil

import numpy as np
import pytest

from gmflow_jax import data
from tests.helpers import in_threads

ROWS = [slice(2, 5), [7, 0, 3], slice(0, 0)]


@pytest.fixture(scope="module", params=["array_record", "npy"])
def latents(request, moments_folder, source, write, tmp_path_factory):
    if request.param == "array_record":
        return data.Latents(moments_folder)
    folder = tmp_path_factory.mktemp("npy")
    write(source, folder, container="npy")
    return data.Latents(folder)


def assert_equal(found, expected):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name])


def test_reading_does_not_depend_on_order_threads_and_processes(latents):
    assert len(latents) == 15
    everything = latents.read(range(15))
    assert everything["mean"].shape == everything["std"].shape == (15, 2, 16, 16, 2)
    assert everything["labels"].dtype == np.int32
    order = [14, 0, 7, 7, 3]
    expected = {name: array[order] for name, array in everything.items()}
    assert_equal(latents.read(order), expected)
    assert_equal(pickle.loads(pickle.dumps(latents)).read(np.array(order)), expected)
    assert latents.read([])["mean"].shape == (0, 2, 16, 16, 2)
    for batch in in_threads([lambda: latents.read(order)] * 4):
        assert_equal(batch, expected)


def test_batches_are_draws_from_the_moments(latents, likelier_noise):
    """Over many epochs: half mirrored, mean and variance of each latent as stored."""
    steps, batch_size = 150, 30  # 300 draws of each
    batch_fn = data.LatentBatches(latents, batch_size, seed=1)
    stored = latents.read(range(15))
    scale = latents.metadata.scaling_factor
    noise, mirrored = [], 0
    for step in range(steps):
        batch = batch_fn(step)
        assert batch["x_0"].dtype == np.float32
        indices = data.epoch_indices(1, step, batch_size, 15)
        np.testing.assert_array_equal(batch["labels"], stored["labels"][indices])
        mean, std = stored["mean"][indices], stored["std"][indices]
        drawn, left = likelier_noise(batch["x_0"] / scale, mean, std)
        mirrored += drawn.sum()
        noise.append(left)
    noise, num = np.concatenate(noise), steps * batch_size
    assert abs(mirrored - num / 2) < 5 * np.sqrt(num / 4)  # 5 standard deviations, here and below
    mean, var = noise.mean(axis=0), noise.var(axis=0)
    assert np.abs(mean).max() < 5 / np.sqrt(num) and np.abs(var - 1).max() < 5 * np.sqrt(2 / num)
    neighbours = (noise[1:] * noise[:-1]).mean()
    assert abs(neighbours) < 5 / np.sqrt(noise.size)


def test_every_epoch_draws_anew_and_seeds_differ(latents):
    first = data.LatentBatches(latents, 15)(0)
    for other in (data.LatentBatches(latents, 15)(1), data.LatentBatches(latents, 15, seed=1)(0)):
        assert (np.sort(first["x_0"].ravel()) != np.sort(other["x_0"].ravel())).mean() > 0.99


def test_the_stream_does_not_depend_on_the_batch_size(latents):
    batches = [data.LatentBatches(latents, size) for size in (4, 6)]
    small = [batches[0](step) for step in range(6)]
    large = [batches[1](step) for step in range(4)]
    for name in ("x_0", "labels"):
        np.testing.assert_array_equal(*(np.concatenate([b[name] for b in some]) for some in (small, large)))


@pytest.mark.parametrize("rows", ROWS)
def test_row_slices_equal_rows_of_the_whole_batch(latents, sample_folder, rows):
    functions = [
        data.LatentBatches(latents, 8),
        data.LatentBatches(data.Latents(sample_folder), 8),
        data.FakeLatentBatches((4, 4, 2), 10, 8),
    ]
    for batch_fn in functions:
        for step in range(3):
            whole = batch_fn(step)
            assert_equal(batch_fn(step, rows), {name: array[rows] for name, array in whole.items()})


def test_stored_samples_are_scaled_only(sample_folder):
    latents = data.Latents(sample_folder)
    batch = data.LatentBatches(latents, 5, seed=2)(1)
    stored = latents.read(data.epoch_indices(2, 1, 5, 15))
    np.testing.assert_array_equal(batch["x_0"], stored["sample"] / 2)  # the factor is 0.5
    np.testing.assert_array_equal(batch["labels"], stored["labels"])


def test_fake_latents_are_standard_normal():
    batch = data.FakeLatentBatches((16, 16, 4), 10, 64, seed=1)(3)
    x_0, labels = batch["x_0"], batch["labels"]
    assert x_0.shape == (64, 16, 16, 4) and x_0.dtype == np.float32 and labels.dtype == np.int32
    assert abs(x_0.mean()) < 5 / np.sqrt(x_0.size) and abs(x_0.var() - 1) < 5 * np.sqrt(2 / x_0.size)
    assert set(labels) == set(range(10))
    assert len(np.unique(x_0[:, 0, 0, 0])) == 64
    for seed, step in ((2, 3), (1, 4)):
        other = data.FakeLatentBatches((16, 16, 4), 10, 64, seed)(step)
        assert (other["x_0"] != x_0).mean() > 0.99


def test_bad_indices_are_refused(latents):
    for indices in ([-1], [0, 15]):
        with pytest.raises(ValueError, match="15 latents are counted from 0; give"):
            latents.read(indices)


def test_bad_folders_are_refused(latents, tmp_path):
    with pytest.raises(ValueError, match=r"holds no latents, .*; give a folder that"):
        data.Latents(tmp_path)
    folder = tmp_path / "copy"
    shutil.copytree(latents.folder, folder)
    shard = folder / latents.metadata.shards[1].file
    whole = shard.read_bytes()
    for damage in (lambda: shard.write_bytes(whole[:-8]), shard.unlink):
        damage()
        with pytest.raises(ValueError, match=r"00001-of-00004.* bytes in place of .*; run the command"):
            data.Latents(folder)
    shard.write_bytes(whole)
    path = folder / "metadata.json"
    content = json.loads(path.read_text())
    for name, value in (("format_version", 7), ("format", "mean"), ("container", "zip")):
        path.write_text(json.dumps(content | {name: value}))
        with pytest.raises(ValueError, match=rf"{value}.*; (use|encode)"):
            data.Latents(folder)
    path.unlink()
    with pytest.raises(ValueError, match=r"not finished; run the command that makes them again"):
        data.Latents(folder)
