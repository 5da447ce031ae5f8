"""Files of records: written in one go, read in any order."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np

from gmflow_jax._files import BucketError, describe_bucket_error, is_address, naming
from gmflow_jax.data._metadata import Shard

_OPENED_BY_GRAIN = {"gs", "gcs"}  # schemes of buckets that its reader, which is in C++, can open


def shard_name(i: int, num_shards: int, container: str) -> str:
    """Return the file name of a shard.

    Args:
      i: number of the shard.
      num_shards: number of shards.
      container: 'array_record' or 'npy'.

    Returns:
      The name, without a folder.
    """
    return f"latents-{i:05d}-of-{num_shards:05d}.{container}"


def write_records(path: pathlib.Path, container: str, records: np.ndarray) -> None:
    """Write records as an ArrayRecord file, or as a uint8 array [n, bytes of a record].

    Args:
      path: the file.
      container: 'array_record' or 'npy'.
      records: records [n].
    """
    if container == "npy":
        with open(path, "wb") as file:  # np.save would append .npy to the name
            np.save(file, records.view(np.uint8).reshape(len(records), records.dtype.itemsize))
        return
    from array_record.python.array_record_module import ArrayRecordWriter

    # With groups of one record, a random read reads one record. Latents hardly compress.
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in records:
        writer.write(record.tobytes())
    writer.close()


class NpyShards:
    """Records in memory-mapped arrays. A process that unpickles the object maps them again.

    Args:
      paths: the files.
      lengths: records in each file.
      dtype: dtype of a record.
    """

    def __init__(self, paths: Sequence[pathlib.Path], lengths: Sequence[int], dtype: np.dtype):
        self._paths, self._lengths, self._dtype = paths, lengths, dtype
        self._starts = np.cumsum([0, *lengths])
        self._arrays = [np.load(path, mmap_mode="r").view(dtype)[:, 0] for path in paths]

    def __reduce__(self) -> tuple[Any, ...]:
        return NpyShards, (self._paths, self._lengths, self._dtype)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Read the records [n] at these indices [n]."""
        records = np.empty(len(indices), self._dtype)
        shards = _shard_of(self._starts, indices)
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            records[here] = self._arrays[shard][indices[here] - self._starts[shard]]
        return records


class RangeShards:
    """Records in .npy files of a bucket; all records of a call are requested together, each by its range.

    Args:
      paths: the files.
      lengths: records in each file.
      dtype: dtype of a record.
      sizes: bytes of each file.
    """

    def __init__(self, paths: Sequence[Any], lengths: Sequence[int], dtype: np.dtype, sizes: Sequence[int]):
        self._paths, self._dtype = paths, dtype
        self._starts = np.cumsum([0, *lengths])
        self._headers = np.array(sizes) - np.array(lengths) * dtype.itemsize  # bytes before the records

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Read the records [n] at these indices [n]."""
        size = self._dtype.itemsize
        shards = _shard_of(self._starts, indices)
        starts = self._headers[shards] + (indices - self._starts[shards]) * size
        paths = [self._paths[shard] for shard in shards]
        with naming(self._paths[0].parent):
            found = self._paths[0].fs.cat_ranges(
                [path.path for path in paths], starts.tolist(), (starts + size).tolist(), on_error="raise"
            )
        for path, record in zip(paths, found, strict=True):
            if len(record) != size:
                raise BucketError(
                    f"{path} is shorter than metadata.json says; run the command that made the latents "
                    "again, which writes that file again."
                )
        return np.frombuffer(b"".join(found), self._dtype)


def _shard_of(starts: np.ndarray, indices: np.ndarray) -> np.ndarray:
    """Return the shards [n] of records, given the number of records before each shard."""
    return np.searchsorted(starts, indices, side="right") - 1


class _RecordSource(Protocol):
    def __getitems__(self, record_keys: Sequence[int]) -> Sequence[bytes]: ...


class ArrayRecordShards:
    """Records in ArrayRecord files, read by Grain, which opens a file in each process when it is first read.

    Args:
      paths: the files, local or in a bucket that Grain can open.
      lengths: records in each file.
      dtype: dtype of a record.
    """

    def __init__(self, paths: Sequence[pathlib.Path], lengths: Sequence[int], dtype: np.dtype):
        import grain

        self._dtype = dtype
        self._bucket = _bucket_for_grain(paths)
        # Given the numbers of records, Grain need not open the files to count them.
        names = [f"gs://{cast(Any, path).path}" if self._bucket else str(path) for path in paths]
        parts = [f"{name}[0:{length}]" for name, length in zip(names, lengths, strict=True)]
        source = grain.sources.ArrayRecordDataSource(parts)
        self._source = cast(_RecordSource, source)  # it inherits from array_record, which has no types

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Read the records [n] at these indices [n]."""
        if not len(indices):  # Grain cannot read no records
            return np.empty(0, self._dtype)
        try:
            return np.frombuffer(b"".join(self._source.__getitems__(indices.tolist())), self._dtype)
        except RuntimeError as error:  # its reader has tried again for 15 minutes
            if self._bucket is None:
                raise
            raise BucketError(describe_bucket_error(error, self._bucket)) from error


def _bucket_for_grain(paths: Sequence[Any]) -> str | None:
    """Return the address of the folder of ArrayRecord files, or None if they are local.

    Raises:
      ValueError: if Grain cannot open them.
    """
    if not paths or not is_address(paths[0]):
        return None
    folder = str(paths[0].parent)
    advice = (
        "set a cache on the local disk (data.cache in a configuration), or prepare the latents with "
        "--container=npy."
    )
    if paths[0].protocol not in _OPENED_BY_GRAIN:
        raise ValueError(
            f"{folder} holds ArrayRecord files, which cannot be read from such an address; {advice}"
        )
    credentials = getattr(paths[0].fs, "credentials", None)
    anonymous = credentials is not None and credentials.method == "anon"
    if anonymous and "CLOUD_STORAGE_EMULATOR_ENDPOINT" not in os.environ:
        raise ValueError(  # it would look for credentials for minutes
            f"{folder} holds ArrayRecord files, which are read from a bucket with credentials only, and "
            f"this machine has none; run gcloud auth application-default login, {advice}"
        )
    return folder


def open_shards(
    folder: pathlib.Path, shards: Sequence[Shard], container: str, dtype: np.dtype
) -> NpyShards | RangeShards | ArrayRecordShards:
    """Open files of records, local or in a bucket.

    Args:
      folder: the folder of the files.
      shards: the files.
      container: 'array_record' or 'npy'.
      dtype: dtype of a record.

    Returns:
      An object whose read(indices) returns records [n]. It can be pickled, and threads may share it.

    Raises:
      ValueError: if files of this container cannot be read from this address.
    """
    shards = [shard for shard in shards if shard.num_records]
    paths, lengths = [folder / shard.file for shard in shards], [shard.num_records for shard in shards]
    if container == "array_record":
        return ArrayRecordShards(paths, lengths, dtype)
    if is_address(folder):
        return RangeShards(paths, lengths, dtype, [shard.num_bytes for shard in shards])
    return NpyShards(paths, lengths, dtype)
