"""Files of records: written whole or not at all, read at random."""

import functools
import json
import os
import pathlib
from collections.abc import Callable, Sequence
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


def write_whole(path: pathlib.Path, write: Callable[[pathlib.Path], None], process_index: int = 0) -> None:
    """Lets `write(temporary)` make a file, which takes its name when it is whole and on the disk."""
    temporary = path.with_name(f".{path.name}.{process_index}.tmp")
    write(temporary)
    with open(temporary, "rb+") as file:
        os.fsync(file.fileno())
    temporary.replace(path)


def write_json(path: pathlib.Path, content: Any, process_index: int = 0) -> None:
    """Writes JSON whole or not at all."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), process_index)


class NpyShards:
    """Records of memory-mapped arrays. The maps are made when first read, in each process."""

    def __init__(self, paths: Sequence[pathlib.Path], lengths: Sequence[int], dtype: np.dtype):
        self._paths, self._dtype = paths, dtype
        self._starts = np.cumsum([0, *lengths])

    @functools.cached_property
    def _arrays(self) -> list[np.ndarray]:
        arrays = [np.load(path, mmap_mode="r") for path in self._paths]
        return [array.view(self._dtype)[:, 0] for array in arrays]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_arrays"}

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
