"""Files of records: written in one go, read in any order."""

import pathlib
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np


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
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            records[here] = self._arrays[shard][indices[here] - self._starts[shard]]
        return records


class _RecordSource(Protocol):
    def __getitems__(self, record_keys: Sequence[int]) -> Sequence[bytes]: ...


class ArrayRecordShards:
    """Records in ArrayRecord files, read by Grain, which opens a file in each process when it is first read.

    Args:
      paths: the files.
      lengths: records in each file.
      dtype: dtype of a record.
    """

    def __init__(self, paths: Sequence[pathlib.Path], lengths: Sequence[int], dtype: np.dtype):
        import grain

        self._dtype = dtype
        # Given the numbers of records, Grain need not open the files to count them.
        parts = [f"{path}[0:{length}]" for path, length in zip(paths, lengths, strict=True)]
        source = grain.sources.ArrayRecordDataSource(parts)
        self._source = cast(_RecordSource, source)  # it inherits from array_record, which has no types

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Read the records [n] at these indices [n]."""
        if not len(indices):  # Grain cannot read no records
            return np.empty(0, self._dtype)
        return np.frombuffer(b"".join(self._source.__getitems__(indices.tolist())), self._dtype)


SHARDS = {"array_record": ArrayRecordShards, "npy": NpyShards}
