"""Speed at which one host reads batches of latents, compared with the needs of a pod.

  python -m experiments.benchmarks.data

Writes latents of random numbers in every format and container, and reads them in shuffled order through
`LatentBatches` and `prefetch` with several numbers of threads. The row `floor` is a plain copy of the records
from memory-mapped .npy files. All rows are measured in turn. The files are read once before, so the disk has
no influence if they fit into memory.

With --bucket=gs://BUCKET/FOLDER the latents are also written there, into new folders that are removed in the
end, and read from there: each record when it is needed, and through a cache on the local disk. The first read
of a cache, which fetches the files, is not in its row.

Columns: `copy_share` is the speed relative to the plain copy, `steps_per_s` the steps per second of a pod in
which every host reads at this speed, and `of_needed` the same relative to --steps_per_second.
"""

import contextlib
import functools
import pathlib
import secrets
import shutil
import tempfile
from collections.abc import Iterator

import numpy as np
from absl import flags

from experiments.benchmarks import inputs, timing
from experiments.benchmarks.report import OUT_HELP, Report
from experiments.common import cli
from gmflow_jax import data
from gmflow_jax._files import check_writable, remove_tree, to_path, upload_folder
from gmflow_jax.data._files import write_json
from gmflow_jax.data._records import record_dtype
from gmflow_jax.data._shards import shard_name, write_records

_FOLDER = cli.define_path(
    "folder", None, "Folder for temporary latents; by default the system's temporary folder."
)
_BUCKET = cli.define_path("bucket", None, "Address of a folder in a bucket, to read latents from there, too.")
_RECORDS = flags.DEFINE_integer("num_records", 8192, "Latents of each format and container.", lower_bound=1)
_SHARDS = flags.DEFINE_integer("num_shards", 16, "Files of each container; ImageNet has 313.", lower_bound=1)
_THREADS = flags.DEFINE_list("num_threads", ["0", "1", "2", "4", "8"], "Numbers of threads, comma-separated.")
_WORKERS = flags.DEFINE_integer("num_workers", 0, "Processes that make batches, each with these threads.", 0)
_BATCH = flags.DEFINE_integer("global_batch_size", 4096, "Images in a training step, over all hosts.")
_HOSTS = flags.DEFINE_integer("num_hosts", 16, "Hosts that share a step; a TPU v4-128 has 16.", 1)
_RATE = flags.DEFINE_float("steps_per_second", 5, "Training steps per second that the pod should make.", 0.01)
_SECONDS = flags.DEFINE_float("seconds", 10.0, "Time for all measurements of a format.", 0.0)
_OUT = cli.define_path("out", None, OUT_HELP)

_LATENT_SHAPE = (32, 32, 4)  # of an image of 256 pixels
_FORMATS, _CONTAINERS = ("moments", "sample"), ("npy", "array_record")


def main() -> None:
    """Run the benchmark."""
    with cli.report_user_errors():
        threads = inputs.whole_numbers(_THREADS, smallest=0)
        if _BATCH.value < _HOSTS.value:
            raise ValueError(
                f"A batch of {_BATCH.value} images cannot be split over {_HOSTS.value} hosts; give a larger "
                "--global_batch_size or a smaller --num_hosts."
            )
        if _FOLDER.value and not pathlib.Path(_FOLDER.value).is_dir():
            raise ValueError(f"There is no folder {_FOLDER.value}; make it first, or leave --folder out.")
        if _BUCKET.value:
            check_writable(to_path(_BUCKET.value) / "metadata.json")
        report = Report("data", _OUT.value)
    per_host = _BATCH.value // _HOSTS.value
    report.log(
        f"Each of {_HOSTS.value} hosts, at batch {_BATCH.value} and {_RATE.value:g} steps/s, needs "
        f"{per_host * _RATE.value:,.0f} records/s."
    )
    for format in _FORMATS:
        with _folder() as folder, _folder_in_bucket() as bucket:
            _measure(report, format, folder, bucket, threads, per_host)
    report.finish()


def _measure(
    report: Report,
    format: str,
    folder: pathlib.Path,
    bucket: pathlib.Path | None,
    threads: list[int],
    per_host: int,
) -> None:
    """Add the rows of one format."""
    for container in _CONTAINERS:
        _write(folder / container, format, container)
    readers = {"floor": (None, functools.partial(_copy, sorted((folder / "npy").glob("*.npy"))))}
    for name, latents in _opened(folder, bucket).items():
        for number in threads:
            call = functools.partial(_read, latents, per_host, number)
            readers[f"{name}, {number} threads"] = (number, call)
    calls = {name: call for name, (_, call) in readers.items()}
    timings = timing.measure(calls, _SECONDS.value, log=report.log)
    for name, (number, _) in readers.items():
        # All batches are full, so the last may contain records of the next epoch.
        records = _RECORDS.value if name == "floor" else -(-_RECORDS.value // per_host) * per_host
        rate = records / timings.seconds(name).median
        report.add(
            format=format,
            container=name.partition(",")[0],  # and where it is
            threads=number,
            records_per_s=rate,
            mb_per_s=rate * record_dtype(format, _LATENT_SHAPE).itemsize / 1e6,
            copy_share=timings.ratio("floor", name).scaled(records / _RECORDS.value),
            steps_per_s=rate / per_host,
            of_needed=rate / per_host / _RATE.value,
        )


def _opened(folder: pathlib.Path, bucket: pathlib.Path | None) -> dict[str, data.Latents]:
    """Open the latents of each container on the disk, and copy them to the bucket, if there is one."""
    opened = {container: data.Latents(folder / container) for container in _CONTAINERS}
    for container in _CONTAINERS if bucket else ():
        address = bucket / container
        upload_folder(folder / container, address, last="metadata.json")
        opened[f"{container} in bucket"] = data.Latents(address)
        opened[f"{container} in cache"] = data.Latents(address, folder / "cache")
    return opened


@contextlib.contextmanager
def _folder_in_bucket() -> Iterator[pathlib.Path | None]:
    """Yield a new folder in the bucket, or None without a bucket; remove it in the end."""
    if not _BUCKET.value:
        yield None
        return
    folder = to_path(_BUCKET.value) / f"latents-{secrets.token_hex(8)}"
    try:
        yield folder
    finally:
        remove_tree(folder)


@contextlib.contextmanager
def _folder() -> Iterator[pathlib.Path]:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="latents-", dir=_FOLDER.value))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _write(folder: pathlib.Path, format: str, container: str) -> None:
    folder.mkdir()
    rng, shards = np.random.default_rng(0), []
    per_shard = -(-_RECORDS.value // _SHARDS.value)
    for i, start in enumerate(range(0, _RECORDS.value, per_shard)):
        records = np.zeros(min(per_shard, _RECORDS.value - start), record_dtype(format, _LATENT_SHAPE))
        latents = records[format]
        latents[...] = rng.standard_normal(latents.shape, np.float32)
        path = folder / shard_name(i, _SHARDS.value, container)
        write_records(path, container, records)
        shards.append(data.Shard(path.name, len(records), path.stat().st_size))
    metadata = data.LatentMetadata(
        format_version=1, format=format, container=container, autoencoder="random numbers",
        scaling_factor=0.18215, downscale=8, latent_shape=_LATENT_SHAPE, image_size=256,
        num_images=_RECORDS.value, num_classes=1, class_folders=("random",), class_names={},
        shards=tuple(shards), broken=(), source={"kind": "random"},
    )  # fmt: skip
    write_json(folder / "metadata.json", metadata.to_json())


def _copy(files: list[pathlib.Path]) -> int:
    """Copy all records from memory-mapped files, in order; return their number."""
    return sum(len(np.array(np.load(file, mmap_mode="r"))) for file in files)


def _read(latents: data.Latents, batch_size: int, num_threads: int) -> int:
    """Make the full batches that contain an epoch; return their number of records."""
    num_steps = -(-len(latents) // batch_size)
    batches = data.prefetch(
        data.LatentBatches(latents, batch_size), 0, num_steps,
        num_threads=num_threads, num_workers=_WORKERS.value,
    )  # fmt: skip
    return sum(len(batch["labels"]) for batch in batches)


if __name__ == "__main__":
    cli.run(main)
