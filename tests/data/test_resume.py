"""Killed at any moment and started again, a folder of latents ends with the same bytes."""

import fcntl
import os
import pathlib
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pytest

from gmflow_jax import data, models

# A program that imports once. For each line of its input it starts a child process that encodes, kills it
# some time after the folder has the given number of files, and prints how it ended: 0, or the signal. The
# parent uses no device and no client of a bucket, so that it can fork.
PROGRAM = """
import json, os, pickle, signal, sys, time, urllib.parse, urllib.request
import jax
from array_record.python import array_record_module
from gmflow_jax import data, models

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_disable_most_optimizations", True)
source = data.open_images(sys.argv[1])
with open(sys.argv[2], "rb") as file:
    autoencoder = models.from_params(models.AutoencoderKL, *pickle.load(file))
options = dict(image_size=32, images_per_shard=2, batch_size=2, num_threads=2, progress=False)


def count(out):
    if not out.startswith("gs://"):
        return len(os.listdir(out)) if os.path.isdir(out) else 0
    bucket, _, folder = out.removeprefix("gs://").partition("/")
    query = urllib.parse.urlencode({"prefix": f"{folder}/"})
    url = f"{os.environ['STORAGE_EMULATOR_HOST']}/storage/v1/b/{bucket}/o?{query}"
    with urllib.request.urlopen(url) as answer:
        return len(json.load(answer).get("items", ()))


for line in sys.stdin:
    out, num_files, seconds = line.split()
    child = os.fork()
    if child == 0:
        data.write_latents(source, autoencoder, out, **options)
        os._exit(0)
    while (ended := os.waitpid(child, os.WNOHANG)) == (0, 0):
        if count(out) >= int(num_files):
            time.sleep(float(seconds))
            os.kill(child, signal.SIGKILL)
            ended = os.waitpid(child, 0)
            break
        time.sleep(0.0005)
    print(ended[1], flush=True)
"""


@pytest.fixture
def run(image_folder, autoencoder, tmp_path_factory):
    """run(out, num_files, seconds): encode into `out`, kill the process then, and return how it ended."""
    network = tmp_path_factory.mktemp("network") / "autoencoder.pickle"
    network.write_bytes(pickle.dumps((autoencoder.config, models.functional(autoencoder)[1])))
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, image_folder, network],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=pathlib.Path(data.__file__).parents[2],
        env={name: value for name, value in os.environ.items() if name != "XLA_FLAGS"},
    ) as process:  # fmt: skip

        def call(out, num_files, seconds):
            process.stdin.write(f"{out} {num_files} {seconds}\n")
            process.stdin.flush()
            return int(process.stdout.readline())

        yield call
        process.stdin.close()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_run_killed_at_any_moment_ends_with_the_same_bytes(run, tmp_path):
    assert run(tmp_path / "undisturbed", 1000, 0) == 0
    expected = contents(tmp_path / "undisturbed")
    assert len(expected) == 2 * 8 + 2  # shards with a report on each, plan and metadata
    rng = np.random.default_rng()
    kills = 0
    for num_files in (1, 3, 6, 10, 15):
        ended = run(tmp_path / "killed", num_files, rng.uniform(0, 0.01))
        kills += ended == 9
        left = contents(tmp_path / "killed")
        # Files that are not hidden are complete.
        assert all(left[name] == expected[name] for name in left if name[0] != ".")
    assert kills >= 3  # unless it was quicker
    assert run(tmp_path / "killed", 1000, 0) == 0
    assert contents(tmp_path / "killed") == expected


@pytest.mark.slow
def test_a_run_killed_while_it_writes_to_a_bucket_ends_with_the_same_bytes(bucket, run, tmp_path):
    assert run(tmp_path, 1000, 0) == 0
    expected, out = contents(tmp_path), bucket / "killed"
    rng = np.random.default_rng()
    kills = 0
    for num_files in (1, 3, 6, 10, 15):
        kills += run(out, num_files, rng.uniform(0, 0.01)) == 9
        left = contents(out)
        assert all(left[name] == expected[name] for name in left)  # an object is whole
    assert kills >= 3  # unless it was quicker
    assert run(out, 1000, 0) == 0
    assert contents(out) == expected


def test_a_damaged_shard_is_written_again(source, moments_folder, write, tmp_path):
    metadata = write(source, tmp_path)
    shard = tmp_path / metadata.shards[1].file
    shard.write_bytes(shard.read_bytes()[:-1])
    (tmp_path / metadata.shards[2].file).unlink()
    (tmp_path / f".{metadata.shards[2].file}.0.tmp").write_text("what was being written")
    write(source, tmp_path)
    assert contents(tmp_path) == contents(moments_folder)


def test_a_second_process_of_the_same_index_is_refused(source, moments_folder, write, tmp_path):
    (tmp_path / ".process-1.lock").touch()  # of a process that was killed
    write(source, tmp_path, process_index=1, num_processes=2)
    with open(tmp_path / ".process-0.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match=r"Another process of index 0 is writing to .*; give each"):
            write(source, tmp_path)
    write(source, tmp_path)
    assert contents(tmp_path) == contents(moments_folder)


def test_broken_images_are_tried_again(files, image_folder, moments_folder, write, tmp_path):
    images, out = tmp_path / "images", tmp_path / "out"
    for name in files:
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        (images / name).symlink_to(image_folder / name)
    name = "n01/n01_0.JPEG"
    target = (images / name).readlink()
    (images / name).unlink()
    (images / name).symlink_to("absent")
    copy = data.open_images(images)
    assert write(copy, out).broken == (name, "n02/truncated.JPEG")
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.array_record")}
    with pytest.raises(ValueError, match=rf"image {name} is broken .*; repair"):
        write(copy, out, broken="stop")
    write(copy, out)
    assert times == {path: path.stat().st_mtime_ns for path in times}  # none was made again
    (images / name).unlink()
    (images / name).symlink_to(target)
    write(copy, out)
    assert contents(out) == contents(moments_folder)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("plan.json", "[]", r"plan\.json is damaged \(it is \[\]\); copy"),
        ("plan.json", "{", r"plan\.json is damaged \(Expecting.*; copy"),
        ("*-of-00004.*.json", "{}", r"latents.* is damaged \(num_records is None\); remove it"),
    ],
)
def test_damaged_progress_files_are_named(source, moments_folder, write, tmp_path, name, text, reason):
    shutil.copytree(moments_folder, tmp_path, dirs_exist_ok=True)
    next(tmp_path.glob(name)).write_text(text)
    with pytest.raises(ValueError, match=reason):
        write(source, tmp_path)
