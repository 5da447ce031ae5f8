"""Copies of latents in a bucket on the local disk."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import shutil
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any

from gmflow_jax._files import BucketError, download, is_address, write_whole
from gmflow_jax.data._files import checksums, file_sizes
from gmflow_jax.data._metadata import LatentMetadata, Shard

_NUM_THREADS = 8  # shards fetched at a time
_PREFIX = "latents-"  # of the folders in a cache


@dataclasses.dataclass(frozen=True)
class LocalCopy:
    """The shards of a folder in a bucket, in a subfolder of a cache that belongs to these latents alone.

    Attributes:
      source: the address of the folder.
      folder: the subfolder.
      shards: the shards.
      max_bytes: size that all latents in the cache may have together.
      progress: whether to show a bar.
    """

    source: Any
    folder: pathlib.Path
    shards: Sequence[Shard]
    max_bytes: float
    progress: bool

    def check_bound(self) -> None:
        """Raise ValueError if the shards do not fit into the bound, beside the other latents in the cache."""
        cache = self.folder.parent
        needed = sum(shard.num_bytes for shard in self.shards)
        others = sum(_size(child) for child in cache.glob(f"{_PREFIX}*") if child != self.folder)
        if others + needed > self.max_bytes:
            beside = f" beside other latents of {_gib(others)}, which may be removed" if others else ""
            raise ValueError(
                f"The latents in {self.source} need {_gib(needed)} in the cache {cache}{beside}, but its "
                f"bound is {_gib(self.max_bytes)}; give a larger bound (cache_gib, data.cache_gib in a "
                "configuration), or leave the cache out."
            )

    def _check_disk(self, missing: Sequence[Shard]) -> None:
        needed = sum(shard.num_bytes for shard in missing)
        existing = _existing(self.folder)
        free = shutil.disk_usage(existing).free
        if needed > free:
            raise ValueError(
                f"The latents in {self.source} need {_gib(needed)} more in the cache {self.folder.parent}, "
                f"but its disk has {_gib(free)} free; free some space, give a folder of another disk (cache, "
                "data.cache in a configuration), or leave the cache out."
            )

    def fetch(self) -> pathlib.Path:
        """Fetch the shards that are missing, and return the folder.

        A shard appears under its name when it is complete, so a call that is killed can be repeated. If
        another process is fetching the same latents, it is waited for.

        Raises:
          ValueError: if the shards do not fit into the bound, or into what the disk has free.
          OSError: if the bucket or the disk cannot be used.
        """
        missing = self._missing()
        if not missing:
            return self.folder
        self._check_disk(missing)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._lock():
            missing = self._missing()  # another process may have fetched them in the meantime
            if missing:
                for leftover in self.folder.glob(".*.tmp"):  # of a process that was killed
                    leftover.unlink()
                self.check_bound()
                self._check_disk(missing)
                self._fetch(missing)
        return self.folder

    def _fetch(self, missing: Sequence[Shard]) -> None:
        from tqdm.auto import tqdm

        pool = ThreadPoolExecutor(_NUM_THREADS)
        try:
            with tqdm(
                total=sum(shard.num_bytes for shard in missing), desc=f"fetching {self.source}", unit="B",
                unit_scale=True, disable=not self.progress, dynamic_ncols=True,
            ) as bar:  # fmt: skip
                for future in as_completed([pool.submit(self._fetch_shard, shard) for shard in missing]):
                    bar.update(future.result())
        finally:
            pool.shutdown(cancel_futures=True)

    def _fetch_shard(self, shard: Shard) -> int:
        source = self.source / shard.file

        def fetch(temporary: pathlib.Path) -> None:
            download(source, temporary)
            size = temporary.stat().st_size
            if size != shard.num_bytes:
                raise BucketError(
                    f"{source} has {size:,} bytes in place of {shard.num_bytes:,}; run the command that made "
                    "the latents again, which writes that file again."
                )

        write_whole(self.folder / shard.file, fetch)
        return shard.num_bytes

    def _missing(self) -> list[Shard]:
        present = file_sizes(self.folder)
        return [shard for shard in self.shards if present.get(shard.file) != shard.num_bytes]

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        import fcntl  # not on Windows, where the rest of this package can be imported

        with open(self.folder / ".lock", "w") as file:
            with contextlib.suppress(OSError):  # the file system has no locks
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    if self.progress:
                        print(f"Waiting for another process, which fetches {self.source}.", file=sys.stderr)
                    fcntl.flock(file, fcntl.LOCK_EX)
            yield


def local_copy_of(
    source: pathlib.Path,
    metadata: LatentMetadata,
    cache: str | os.PathLike[str] | None,
    cache_gib: float,
    progress: bool,
) -> LocalCopy | None:
    """Describe the copy of latents in a cache, and check that its bound has room; nothing is fetched yet.

    Args:
      source: the folder of latents.
      metadata: its metadata.
      cache: a folder on the local disk; None or "" is no cache.
      cache_gib: size in GiB that all latents in the cache may have together.
      progress: whether to show a bar while shards are fetched.

    Returns:
      The copy, or None if there is no cache or the latents are local.

    Raises:
      ValueError: if the cache is no local folder, the bound is not positive or too small.
    """
    if not cache_gib > 0:  # nor is NaN
        raise ValueError(f"cache_gib is {cache_gib}, but bounds a size in GiB; give a positive number.")
    if cache is None or not str(cache) or not is_address(source):
        return None
    if is_address(cache):
        raise ValueError(f"The cache {cache} is no folder on the local disk; give one, or leave it out.")
    shards = [shard for shard in metadata.shards if shard.num_records]
    sums = checksums(source)  # latents that were made again may differ only in the bytes
    identity = [str(source), metadata.to_json(), [sums.get(shard.file) for shard in shards]]
    name = _PREFIX + hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    copy = LocalCopy(source, pathlib.Path(cache) / name, shards, cache_gib * 2**30, progress)
    copy.check_bound()
    return copy


def _existing(path: pathlib.Path) -> pathlib.Path:
    """Return the folder in which a path exists or will be made."""
    path = path.absolute()
    while not path.exists():
        path = path.parent
    if not path.is_dir():
        raise ValueError(f"The cache would lie in {path}, which is a file; give a folder.")
    return path


def _size(folder: pathlib.Path) -> int:
    return sum(file_sizes(folder).values())


def _gib(num_bytes: float) -> str:
    gib = num_bytes / 2**30
    return f"{gib:,.1f} GiB" if gib >= 1 else f"{gib:.3g} GiB"
