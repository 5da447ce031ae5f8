"""Latents on disk, and the batches that networks are trained on."""

import dataclasses
import functools
import os
from collections.abc import Sequence

import numpy as np

from gmflow_jax._files import to_path
from gmflow_jax.data._batches import Rows, stream_indices, stream_positions
from gmflow_jax.data._cache import local_copy_of
from gmflow_jax.data._files import file_sizes
from gmflow_jax.data._metadata import CONTAINERS, FORMATS, LatentMetadata
from gmflow_jax.data._random import flip, row_generators
from gmflow_jax.data._records import record_dtype
from gmflow_jax.data._shards import ArrayRecordShards, NpyShards, RangeShards, open_shards


class Latents:
    """A folder of latents that `write_latents` made, on a disk or in a bucket.

    It can be pickled, and several threads may read from it. Records in a bucket are read when they are
    needed: those of the container npy by their byte ranges, from any store, and those of array_record by
    Grain, which opens Google's buckets only. With a cache, the first read fetches all shards to the local
    disk (all, because every batch draws from the whole folder); records are then read from there.

    Attributes:
      folder: the folder.
      metadata: the contents of its metadata.json.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        cache: str | os.PathLike[str] | None = None,
        cache_gib: float = 200.0,
        progress: bool = True,
    ):
        """Open a folder of latents.

        Args:
          folder: a path, or an address such as gs://bucket/folder.
          cache: folder on the local disk for copies of latents in a bucket; None or "" reads from the bucket.
            The copy stays, for other processes and for later runs; the folder may be removed when no process
            reads from it. Without effect on latents on a disk.
          cache_gib: size in GiB that all latents in the cache may have together.
          progress: whether to show a bar while shards are fetched.

        Raises:
          ValueError: if the folder is not complete, is damaged or has an unknown format, the latents do not
            fit into the cache, or their container cannot be read from this address. The first read raises it
            if the disk of the cache has not enough free.
          OSError: if the bucket cannot be used.
        """
        self.folder = to_path(folder)
        sizes = file_sizes(self.folder)
        path = self.folder / "metadata.json"
        if path.name not in sizes and "plan.json" in sizes:
            raise ValueError(
                f"The latents in {self.folder} are not finished; run the command that makes them again, "
                "which continues where it stopped."
            )
        if path.name not in sizes:
            raise ValueError(
                f"{self.folder} holds no latents, for there is no metadata.json; give a folder that "
                "python -m experiments.prepare_latents made."
            )
        self.metadata = LatentMetadata.load(path)
        if self.metadata.format not in FORMATS or self.metadata.container not in CONTAINERS:
            raise ValueError(
                f"{path} says format {self.metadata.format!r} and container {self.metadata.container!r}, "
                f"but the known ones are {', '.join(FORMATS)} and {', '.join(CONTAINERS)}; "
                "encode the images again."
            )
        for shard in self.metadata.shards:
            found = sizes.get(shard.file, 0)
            if found != shard.num_bytes:
                raise ValueError(
                    f"{self.folder / shard.file} has {found:,} bytes in place of {shard.num_bytes:,}; run "
                    "the command that made the latents again, which writes that file again, or copy the "
                    "folder again."
                )
        self._copy = local_copy_of(self.folder, self.metadata, cache, cache_gib, progress)
        if self._copy is None:
            self._shards  # noqa: B018  # damaged files and unreadable addresses are errors at once

    @functools.cached_property
    def _shards(self) -> NpyShards | RangeShards | ArrayRecordShards:
        folder = self.folder if self._copy is None else self._copy.fetch()
        metadata = self.metadata
        dtype = record_dtype(metadata.format, metadata.latent_shape)
        return open_shards(folder, metadata.shards, metadata.container, dtype)

    def __len__(self) -> int:
        return self.metadata.num_images

    def records(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Read records as they are stored: 'label', 'index' in the source, then 'moments' or 'sample'.

        Args:
          indices: numbers [n] of latents.

        Returns:
          Records [n].

        Raises:
          ValueError: if an index is out of range.
        """
        indices = np.asarray(indices, np.int64)
        if len(indices) and (indices.min() < 0 or indices.max() >= len(self)):
            raise ValueError(
                f"The indices are from {indices.min()} to {indices.max()}, but {len(self)} latents are "
                "counted from 0; give indices below that."
            )
        return self._shards.read(indices)

    def read(self, indices: Sequence[int] | np.ndarray) -> dict[str, np.ndarray]:
        """Read latents, unscaled, and their labels.

        Args:
          indices: numbers [n] of latents.

        Returns:
          A dict with `labels`, int32 [n], and, for the format 'moments', `mean` and `std`, float32
          [n, 2, h, w, C], of the image and of its mirror image; for 'sample', `sample`, float32 [n, h, w, C].

        Raises:
          ValueError: if an index is out of range.
        """
        records = self.records(indices)
        labels = records["label"].astype(np.int32)
        if self.metadata.format == "sample":
            return {"sample": records["sample"].astype(np.float32), "labels": labels}
        mean, std = np.moveaxis(records["moments"].astype(np.float32), 2, 0)
        return {"mean": mean, "std": std, "labels": labels}


@dataclasses.dataclass(frozen=True)
class LatentBatches:
    """A `batch_fn(step, rows=None)` of scaled latents for training.

    A call returns `x_0`, float32 [batch_size, h, w, C], multiplied by the scaling factor, and `labels`,
    int32 [batch_size]. Latents come in the order of `epoch_indices`. Latents stored as moments are drawn
    from the Gaussian of the image or of its mirror image, each with probability 1/2; the draw depends on the
    seed and the position in the stream. `rows` selects rows of the global batch; only these are read.

    Attributes:
      latents: the latents.
      batch_size: latents in the global batch.
      seed: seed of the order and of the draws.
    """

    latents: Latents
    batch_size: int
    seed: int = 0

    def __call__(self, step: int, rows: Rows = None) -> dict[str, np.ndarray]:
        positions = stream_positions(step, self.batch_size, rows)
        records = self.latents.records(stream_indices(self.seed, positions, len(self.latents)))
        metadata = self.latents.metadata
        x_0 = np.empty((len(records), *metadata.latent_shape), np.float32)
        if metadata.format == "sample":
            x_0[...] = records["sample"]
        else:
            generators = row_generators(self.seed, positions)
            for row, moments, generator in zip(x_0, records["moments"], generators, strict=True):
                mean, std = moments[flip(generator)]
                generator.standard_normal(out=row, dtype=np.float32)
                row *= std
                row += mean
        x_0 *= metadata.scaling_factor
        return {"x_0": x_0, "labels": records["label"].astype(np.int32)}


@dataclasses.dataclass(frozen=True)
class FakeLatentBatches:
    """A `batch_fn(step, rows=None)` of standard normal `x_0` and uniform labels.

    For benchmarks and tests without data. A call returns `x_0`, float32 [batch_size, *shape], and `labels`,
    int32 [batch_size]. A row depends on the seed and its position in the stream only.

    Attributes:
      shape: shape of one latent.
      num_classes: number of classes; without classes all labels are 0.
      batch_size: latents in the global batch.
      seed: seed of the draws.
    """

    shape: tuple[int, ...]
    num_classes: int
    batch_size: int
    seed: int = 0

    def __call__(self, step: int, rows: Rows = None) -> dict[str, np.ndarray]:
        positions = stream_positions(step, self.batch_size, rows)
        x_0 = np.empty((len(positions), *self.shape), np.float32)
        labels = np.empty(len(positions), np.int32)
        for i, generator in enumerate(row_generators(self.seed, positions)):
            labels[i] = generator.integers(max(self.num_classes, 1))  # 0, the null label, without classes
            generator.standard_normal(out=x_0[i], dtype=np.float32)
        return {"x_0": x_0, "labels": labels}
