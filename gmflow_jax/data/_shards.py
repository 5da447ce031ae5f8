"""Files of records: written at once, read at random."""

import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np


def shard_name(i: int, num_shards: int, container: str) -> str:
    """The file name of shard i."""
    return f"latents-{i:05d}-of-{num_shards:05d}.{container}"


def write_records(path: pathlib.Path, container: str, records: np.ndarray) -> None:
    """Writes records [n] as an ArrayRecord, or as a uint8 array [n, bytes of a record]."""
    if container == "npy":
        with open(path, "wb") as file:  # np.save would append .npy to the name
            np.save(file, records.view(np.uint8).reshape(len(records), records.dtype.itemsize))
        return
    from array_record.python.array_record_module import ArrayRecordWriter

    # Groups of one record are read at random without reading others; latents hardly compress.
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in records:
        writer.write(record.tobytes())
    writer.close()


class NpyShards:
    """Records of memory-mapped arrays, which are mapped anew in a process that this is sent to."""

    def __init__(self, paths: Sequence[pathlib.Path], lengths: Sequence[int], dtype: np.dtype):
        self._paths, self._lengths, self._dtype = paths, lengths, dtype
        self._starts = np.cumsum([0, *lengths])
        self._arrays = [np.load(path, mmap_mode="r").view(dtype)[:, 0] for path in paths]

    def __reduce__(self) -> tuple[Any, ...]:
        return NpyShards, (self._paths, self._lengths, self._dtype)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Records [n] at these indices [n]."""
        records = np.empty(len(indices), self._dtype)
        shards = np.searchsorted(self._starts, indices, side="right") - 1
        for shard in np.unique(shards):
            here = np.flatnonzero(shards == shard)
            records[here] = self._arrays[shard][indices[here] - self._starts[shard]]
        return records


class ArrayRecordShards:
    """Records of ArrayRecord files, through Grain, which opens them when first read in each process."""

    def __init__(self, paths: Sequence[pathlib.Path], lengths: Sequence[int], dtype: np.dtype):
        import grain

        self._dtype = dtype
        # With the numbers of records at hand the files need not be opened to count them.
        parts = [f"{path}[0:{length}]" for path, length in zip(paths, lengths, strict=True)]
        self._source = grain.sources.ArrayRecordDataSource(parts)

    def read(self, indices: np.ndarray) -> np.ndarray:
        """Records [n] at these indices [n]."""
        if not len(indices):  # which Grain does not read
            return np.empty(0, self._dtype)
        return np.frombuffer(b"".join(self._source.__getitems__(indices.tolist())), self._dtype)


SHARDS = {"array_record": ArrayRecordShards, "npy": NpyShards}
