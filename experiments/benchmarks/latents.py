"""How fast one host makes batches of latents, and what a pod needs.

  python -m experiments.benchmarks.latents

Writes latents of random numbers in every format and container, reads them shuffled through
`LatentBatches` and `prefetch`, and prints records and megabytes a second for several numbers of threads.
The floor is a plain copy of the same bytes from memory-mapped files. The files are read once before, so
that the disk plays no part where they fit into memory.
"""

import contextlib
import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator

import numpy as np
from absl import flags

from experiments import cli
from gmflow_jax import data
from gmflow_jax.data._files import write_json
from gmflow_jax.data._records import record_dtype
from gmflow_jax.data._shards import shard_name, write_records

_FOLDER = flags.DEFINE_string("folder", None, "Where latents go for a while; temporary by default.")
_RECORDS = flags.DEFINE_integer("num_records", 8192, "Latents in each set.")
_SHARDS = flags.DEFINE_integer("num_shards", 16, "Files of each set; ImageNet has 313.")
_THREADS = flags.DEFINE_list("num_threads", ["0", "1", "2", "4", "8"], "Numbers of threads to try.")
_WORKERS = flags.DEFINE_integer("num_workers", 0, "Processes that make batches, with those threads in each.")
_BATCH = flags.DEFINE_integer("global_batch_size", 4096, "Images of a step.")
_HOSTS = flags.DEFINE_integer("num_hosts", 16, "Hosts that share a step; a TPU v4-128 has 16.")
_RATE = flags.DEFINE_float("steps_per_second", 5, "Steps a second that the pod shall make.")

_LATENT_SHAPE = (32, 32, 4)  # of an image of 256 pixels
_REPEATS = 3


def main() -> None:
    with cli.user_input():
        threads = [int(number) for number in _THREADS.value]
        if min(_RECORDS.value, _SHARDS.value, _HOSTS.value) < 1 or _BATCH.value < _HOSTS.value:
            raise ValueError("Give at least 1 record, shard and host, and 1 image for each host.")
        if _FOLDER.value and not pathlib.Path(_FOLDER.value).is_dir():
            raise ValueError(f"There is no folder {_FOLDER.value}; make it first, or leave --folder out.")
    per_host = _BATCH.value // _HOSTS.value
    need = per_host * _RATE.value
    print(
        f"Each of {_HOSTS.value} hosts, at batch {_BATCH.value} and {_RATE.value:g} steps/s, needs "
        f"{need:,.0f} records/s."
    )
    print(f"{'format':8} {'container':13} {'threads':>7} {'records/s':>10} {'MB/s':>7} {'steps/s':>8}")
    for format in ("moments", "sample"):
        with _folder() as folder:
            for container in ("npy", "array_record"):
                _write(folder / container, format, container)
            files = sorted((folder / "npy").glob("*.npy"))
            _copy(files)
            _show(format, "floor", "", _fastest(lambda files=files: _copy(files)), per_host)
            for container in ("npy", "array_record"):
                latents = data.Latents(folder / container)
                for number in threads:
                    rate = _fastest(lambda latents=latents, number=number: _read(latents, per_host, number))
                    _show(format, container, number, rate, per_host)


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
    """Copies all records from their maps, in order; returns their number."""
    return sum(len(np.array(np.load(file, mmap_mode="r"))) for file in files)


def _read(latents: data.Latents, batch_size: int, num_threads: int) -> int:
    """Makes the batches of an epoch; returns their number of records."""
    num_steps = -(-len(latents) // batch_size)
    batches = data.prefetch(
        data.LatentBatches(latents, batch_size), 0, num_steps,
        num_threads=num_threads, num_workers=_WORKERS.value,
    )  # fmt: skip
    return sum(len(batch["labels"]) for batch in batches)


def _fastest(run: Callable[[], int]) -> float:
    """Records a second, in the best of some runs: others share the machine."""
    rates = []
    for _ in range(_REPEATS):
        start = time.perf_counter()
        rates.append(run() / (time.perf_counter() - start))
    return max(rates)


def _show(format: str, container: str, threads: int | str, rate: float, per_host: int) -> None:
    size = record_dtype(format, _LATENT_SHAPE).itemsize
    megabytes, steps = rate * size / 1e6, rate / per_host
    print(f"{format:8} {container:13} {threads:>7} {rate:10,.0f} {megabytes:7,.0f} {steps:8.1f}", flush=True)


if __name__ == "__main__":
    cli.run(main)
