"""Latents in a bucket, on a real server on loopback, equal those of a folder, read directly or by a cache."""

import functools
import pathlib
import pickle
import shutil

import numpy as np
import pytest

from gmflow_jax import data
from gmflow_jax._files import BucketError, to_path, upload_folder, write_bytes
from tests.helpers import in_threads


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_same_batches(found, expected):
    for step in range(4):
        one, other = (data.LatentBatches(latents, 6, seed=2)(step) for latents in (found, expected))
        for name in ("x_0", "labels"):
            np.testing.assert_array_equal(one[name], other[name])


@pytest.fixture(params=["array_record", "npy"])
def pair(request, moments_folder, sample_folder, bucket):
    """Local latents and the address of a copy, in each container."""
    folder = moments_folder if request.param == "array_record" else sample_folder
    upload_folder(folder, bucket)
    return data.Latents(folder), bucket


def test_records_equal_those_of_the_folder(pair):
    local, address = pair
    latents = data.Latents(str(address))
    assert latents.metadata == local.metadata and len(latents) == 15
    order = np.array([14, 0, 7, 7, 3])
    expected = local.records(order)
    again = pickle.loads(pickle.dumps(latents))  # before and after it read
    for reader in (latents, again, pickle.loads(pickle.dumps(latents))):
        assert (reader.records(order) == expected).all()
    assert len(latents.records([])) == 0
    found = in_threads([lambda: latents.records(order)] * 4)
    assert len(found) == 4 and all((records == expected).all() for records in found)
    assert_same_batches(latents, local)


def test_threads_read_batches_ahead(pair):
    local, address = pair
    batches = data.prefetch(data.LatentBatches(data.Latents(address), 4), 0, 3, num_threads=2)
    for step, batch in enumerate(batches):
        np.testing.assert_array_equal(batch["x_0"], data.LatentBatches(local, 4)(step)["x_0"])


def test_a_cache_is_filled_once(pair, tmp_path):
    local, address = pair
    cache = tmp_path / "cache"
    latents = data.Latents(address, cache, progress=False)
    assert not cache.exists()  # the first read fetches
    assert_same_batches(pickle.loads(pickle.dumps(latents)), local)
    (folder,) = cache.iterdir()
    shards = [folder / shard.file for shard in local.metadata.shards]
    assert {path.name for path in folder.iterdir()} == {path.name for path in shards} | {".lock"}
    times = [path.stat().st_mtime_ns for path in shards]
    # A killed process leaves shards that are missing and files under temporary names.
    shards[0].unlink()
    shards[1].write_bytes(b"short")
    (folder / f".{shards[0].name}.1.tmp").write_bytes(b"part")
    assert_same_batches(data.Latents(address, cache, progress=False), local)
    assert [path.stat().st_mtime_ns == time for path, time in zip(shards, times, strict=True)] == [
        False, False, True, True,
    ]  # fmt: skip
    assert not list(folder.glob(".*.tmp"))
    address.fs.rm_file((address / shards[2].name).path)  # a second run fetches nothing, but checks the source
    assert_same_batches(latents, local)
    with pytest.raises(ValueError, match=r"00002-of-00004.* has 0 bytes in place of"):
        data.Latents(address, cache)


def test_latents_that_were_made_again_are_fetched_again(pair, tmp_path):
    local, address = pair
    data.Latents(address, tmp_path, progress=False).records([0])
    name = local.metadata.shards[0].file
    content = bytearray((local.folder / name).read_bytes())
    content[-1] ^= 1  # of the same size and with the same metadata
    write_bytes(address / name, bytes(content))
    data.Latents(address, tmp_path, progress=False).records([0])
    assert sorted((folder / name).read_bytes()[-1] for folder in tmp_path.iterdir()) == sorted(
        [content[-1], content[-1] ^ 1]
    )


def test_several_fetch_into_one_cache(pair, tmp_path, capfd):
    local, address = pair
    readers = [data.Latents(address, tmp_path) for _ in range(3)]
    in_threads([functools.partial(reader.records, [0]) for reader in readers])
    for reader in readers:
        assert (reader.records(range(15)) == local.records(range(15))).all()
    shown = capfd.readouterr().err
    assert f"fetching {address}: 100%" in shown and shown.count("fetching") >= 1


def test_a_cache_is_bounded(pair, tmp_path, monkeypatch):
    local, address = pair
    size = sum(shard.num_bytes for shard in local.metadata.shards)
    gib = size / 2**30
    cache = tmp_path / "cache"
    with pytest.raises(ValueError, match=r"need .* GiB in the cache .*cache, but its bound is .*; give"):
        data.Latents(address, cache, cache_gib=0.9 * gib)
    for wrong in (0, float("nan")):
        with pytest.raises(ValueError, match=r"cache_gib is .* positive"):
            data.Latents(address, cache, cache_gib=wrong)
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="which is a file; give a folder"):
        data.Latents(address, tmp_path / "file" / "cache").records([0])
    with pytest.raises(ValueError, match="is no folder on the local disk"):
        data.Latents(address, address / "cache")
    latents = data.Latents(address, cache, cache_gib=1.1 * gib, progress=False)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10 * size, 0, size - 1))
        with pytest.raises(ValueError, match=r"need .* more in the cache .* has .* free; free some space"):
            latents.records([0])
    assert not cache.exists()
    latents.records([0])
    other = to_path(f"{address}-other")
    upload_folder(local.folder, other)
    with pytest.raises(ValueError, match=r"beside other latents of .*, which may be removed"):
        data.Latents(other, cache, cache_gib=1.9 * gib)
    data.Latents(other, cache, cache_gib=2.1 * gib)


def test_a_cache_does_nothing_for_a_folder(moments_folder, tmp_path):
    latents = data.Latents(moments_folder, tmp_path / "cache")
    assert len(latents.records([0])) == 1 and not (tmp_path / "cache").exists()


def test_any_store_serves_npy(sample_folder, moments_folder, tmp_path):
    address = to_path("memory://latents")
    upload_folder(sample_folder, address / "npy")
    assert_same_batches(data.Latents(address / "npy"), data.Latents(sample_folder))
    upload_folder(moments_folder, address / "array_record")
    with pytest.raises(ValueError, match=r"ArrayRecord files, which cannot be read from .*; set a cache"):
        data.Latents(address / "array_record")
    latents = data.Latents(address / "array_record", tmp_path, progress=False)
    assert_same_batches(latents, data.Latents(moments_folder))


def test_grain_does_not_look_for_credentials(moments_folder, bucket, monkeypatch):
    upload_folder(moments_folder, bucket)
    monkeypatch.delenv("CLOUD_STORAGE_EMULATOR_ENDPOINT")
    with pytest.raises(ValueError, match=r"this machine has none; run gcloud .*, set a cache"):
        data.Latents(bucket)


def test_what_cannot_be_read_is_named(pair, bucket_url):
    local, address = pair
    latents = data.Latents(address)
    shard = address / local.metadata.shards[1].file
    shard.fs.rm_file(shard.path)
    with pytest.raises(BucketError, match=r"gs://.*there is no such bucket or file"):
        latents.records(range(15))
    shard.fs.pipe_file(shard.path, b"short")
    for folder, reason in (
        (address, r"00001-of-00004.* has 5 bytes in place of"),
        (address / "absent", "holds no latents, for there is no metadata.json"),
        ("gs://missing/latents", "gs://missing/latents: there is no such bucket"),
    ):
        with pytest.raises((ValueError, OSError), match=reason):
            data.Latents(folder)
    metadata = address / "metadata.json"
    metadata.fs.rm_file(metadata.path)
    with pytest.raises(ValueError, match="are not finished; run the command"):
        data.Latents(address)
    with pytest.raises(ValueError, match="There is no file gs://"):
        data.LatentMetadata.load(metadata)


def test_latents_are_written_to_a_bucket(source, moments_folder, write, bucket, tmp_path):
    with pytest.raises(ValueError, match="is broken"):
        write(source, bucket, broken="stop")  # stops before the last shard
    assert len(list(bucket.glob("*.array_record"))) == 3
    with pytest.raises(ValueError, match="another plan, which differs in format"):
        write(source, bucket, format="sample")
    first = next(bucket.glob("*.array_record"))
    first.fs.pipe_file(first.path, b"damaged")
    assert write(source, bucket, process_index=1, num_processes=2) is None
    metadata = write(source, bucket, process_index=0, num_processes=2)
    assert contents(bucket) == contents(moments_folder)
    assert data.LatentMetadata.load(bucket / "metadata.json") == metadata
    (bucket / "other" / "file").fs.pipe_file(f"{bucket.path}/other/file", b"")
    with pytest.raises(ValueError, match="holds other files; give a new folder"):
        write(source, f"{bucket}/other")
    with pytest.raises(BucketError, match=r"gs://missing/out.*there is no such bucket"):
        write(source, pathlib.Path("gs://missing/out"))
