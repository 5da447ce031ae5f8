"""Encoding of a set of images to a folder of latents, which can be interrupted at any point."""

import collections
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from gmflow_jax._files import to_path
from gmflow_jax.data._encode import BrokenImage, Encoder, read_pixels, submit_ahead
from gmflow_jax.data._folder import (
    ShardReport,
    agree_on_plan,
    broken_images,
    claim,
    shard_reports,
    write_metadata,
    write_shard,
)
from gmflow_jax.data._metadata import (
    CONTAINERS,
    FORMAT_VERSION,
    FORMATS,
    LatentMetadata,
    autoencoder_fingerprint,
)
from gmflow_jax.data._records import record_dtype, to_records, views
from gmflow_jax.data._shards import shard_name
from gmflow_jax.data._sources import ImageSource

if TYPE_CHECKING:
    from gmflow_jax.models import AutoencoderKL

BROKEN = ("skip", "stop")
_Read = Callable[[int], np.ndarray]  # returns the crop of an image


def write_latents(
    source: ImageSource,
    autoencoder: "AutoencoderKL",
    out: str | os.PathLike[str],
    *,
    image_size: int = 256,
    format: str = "moments",
    container: str = "array_record",
    images_per_shard: int = 4096,
    batch_size: int | None = None,
    broken: str = "skip",
    class_names: Mapping[str, str] | None = None,
    seed: int = 0,
    exif_orientation: bool = False,
    process_index: int = 0,
    num_processes: int = 1,
    devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]  # no stubs
    num_threads: int | None = None,
    progress: bool = True,
) -> LatentMetadata | None:
    """Encode the centre crops of images to a folder of latents that `Latents` reads.

    The call can be killed at any time and repeated; the finished folder has the same bytes. A shard holds a
    contiguous range of the images and appears when it is complete. Shards that exist are not made again,
    unless images that were broken can be read now. The batch size and the devices change only rounding, so
    they may differ between calls. On a GPU the choice of kernels changes rounding too; it is reproducible
    with XLA_FLAGS=--xla_gpu_deterministic_ops=true.

    Args:
      source: the images; `open_images` makes one.
      autoencoder: the autoencoder; its blocks compute in `config.dtype`.
      out: the folder, a path or an address such as gs://bucket/folder; it is made if it does not exist.
      image_size: pixels along a side of the crop.
      format: 'moments' or 'sample', see `LatentMetadata`. Both are stored unscaled. 'sample' is the
        authors' recipe: one draw of the image or of its mirror image, decided by (seed, index).
      container: 'array_record' or 'npy', see `LatentMetadata`.
      images_per_shard: images in a file; the last file may have fewer.
      batch_size: images that are encoded at a time on all devices together, at least one on each; None is
        16 on each.
      broken: what to do with an image that cannot be read: 'skip' it and list it, or 'stop'.
      class_names: names of each class folder, for the metadata; see `read_class_names`.
      seed: seed of the draws for 'sample'.
      exif_orientation: whether to turn images upright by their EXIF orientation, see `center_crop`.
      process_index: number of this process, which makes every `num_processes`-th shard.
      num_processes: number of processes. They may share a folder and do not communicate.
      devices: the devices to use; None is all local ones.
      num_threads: threads that decode images; None is one for each core.
      progress: whether to show a bar, and the broken images at the end.

    Returns:
      The metadata, or None while shards of other processes are missing.

    Raises:
      ValueError: if an option has an impossible value, the folder holds other latents, another process of
        this index writes to it, or an image is broken and `broken` is 'stop'.
    """
    _check_choices(format=(format, FORMATS), container=(container, CONTAINERS), broken=(broken, BROKEN))
    _check_numbers(images_per_shard, batch_size, seed, process_index, num_processes)
    folder = to_path(out)
    common = _common_fields(source, autoencoder, image_size, format, container)
    common["exif_orientation"] = exif_orientation
    read = functools.partial(read_pixels, source, size=image_size, exif_orientation=exif_orientation)
    class_names = _names_by_folder(class_names or {}, source.class_folders)
    plan = common | {"images_per_shard": images_per_shard} | ({"seed": seed} if format == "sample" else {})
    starts = range(0, len(source), images_per_shard)
    paths = [folder / shard_name(i, len(starts), container) for i in range(len(starts))]
    images = {
        path: range(start, min(start + images_per_shard, len(source)))
        for path, start in zip(paths, starts, strict=True)
    }
    own = paths[process_index::num_processes]
    skip_broken = broken == "skip"
    with claim(folder, process_index):
        agree_on_plan(folder, plan, process_index)
        reports = shard_reports(own)
        done = [path for path in own if _is_done(reports[path], images[path], source, read, skip_broken)]
        todo = {path: images[path] for path in own if path not in done}
        total, before = (sum(len(images[path]) for path in some) for some in (own, done))
        with _bar(total, before, progress) as bar:
            if todo:
                encoder = Encoder(autoencoder, batch_size, devices)
                dtype = record_dtype(format, common["latent_shape"])
                job = _Job(source, read, encoder, format, dtype, seed, skip_broken, bar)
                job.write(todo, container, num_threads or os.cpu_count() or 1, process_index)
        metadata = write_metadata(paths, common, class_names, process_index)
    if progress:
        _list_broken(metadata.broken if metadata else broken_images(own))
    return metadata


def _is_done(
    report: ShardReport | None, indices: range, source: ImageSource, read: _Read, skip_broken: bool
) -> bool:
    """Tell whether a shard exists and all images that it lacks are still broken."""
    if report is None:
        return False
    for index in indices if report.broken else ():
        if source.name(index) in report.broken:
            try:
                read(index)
                return False
            except BrokenImage:
                if not skip_broken:
                    raise
    return True


@dataclasses.dataclass(frozen=True)
class _Job:
    """The conversion of images to records."""

    source: ImageSource
    read: _Read
    encoder: Encoder
    format: str
    dtype: np.dtype
    seed: int
    skip_broken: bool
    bar: Any

    def write(
        self, todo: Mapping[pathlib.Path, range], container: str, num_threads: int, process_index: int
    ) -> None:
        """Write shards; images are decoded ahead, also those of the next shard."""
        window = 2 * self.encoder.batch_size + num_threads
        with ThreadPoolExecutor(num_threads) as pool:
            loaded = submit_ahead(pool, self._load, itertools.chain(*todo.values()), window)
            for path, indices in todo.items():
                broken: list[str] = []
                records = self._records(self._batches(indices, loaded, broken))
                write_shard(path, container, records, broken, process_index)

    def _load(self, index: int) -> np.ndarray:
        return views(self.read(index), self.format, self.seed, index)

    def _batches(
        self, indices: range, loaded: Iterator[Future], broken: list[str]
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield indices and images in full batches, then the rest; append names of broken images."""
        kept, images = [], []
        for index, future in zip(indices, loaded, strict=False):  # those of the next shard stay in `loaded`
            self.bar.update()
            try:
                images.append(future.result())
            except BrokenImage:
                if not self.skip_broken:
                    raise
                broken.append(self.source.name(index))
                continue
            kept.append(index)
            if len(kept) == self.encoder.batch_size:
                yield np.array(kept), np.stack(images)
                kept, images = [], []
        if kept:
            yield np.array(kept), np.stack(images)

    def _records(self, batches: Iterator[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
        """Return the records of a shard. A batch is fetched after the next one was submitted."""
        under_way: collections.deque = collections.deque()
        records = [np.empty(0, self.dtype)]
        for kept, images in batches:
            under_way.append((kept, self.encoder(images)))
            if len(under_way) > 1:
                records.append(self._fetch(*under_way.popleft()))
        records += [self._fetch(*batch) for batch in under_way]
        return np.concatenate(records)

    def _fetch(self, indices: np.ndarray, moments: jax.Array) -> np.ndarray:
        labels = self.source.labels[indices]
        return to_records(self.format, np.asarray(moments)[: len(indices)], labels, indices, self.seed)


def check_image_size(image_size: int, downscale: int) -> None:
    """Check that images of this size have latents.

    Raises:
      ValueError: if `image_size` is not a positive multiple of `downscale`.
    """
    if image_size < 1 or image_size % downscale:
        raise ValueError(
            f"image_size is {image_size}, but the autoencoder makes each side {downscale} times "
            f"smaller; give a positive multiple of {downscale}."
        )


def _common_fields(source, autoencoder, image_size: int, format: str, container: str) -> dict[str, Any]:
    """The fields that the plan and the metadata share."""
    config = autoencoder.config
    check_image_size(image_size, config.downscale)
    side = image_size // config.downscale
    return {
        "format_version": FORMAT_VERSION,
        "format": format,
        "container": container,
        "autoencoder": autoencoder_fingerprint(autoencoder),
        "scaling_factor": config.scaling_factor,
        "downscale": config.downscale,
        "latent_shape": (side, side, config.latent_channels),
        "image_size": image_size,
        "num_classes": len(source.class_folders),
        "class_folders": source.class_folders,
        "source": source.description,
    }


def _list_broken(broken: Sequence[str]) -> None:
    from tqdm.auto import tqdm

    if broken:
        listing = "\n  ".join(broken)
        tqdm.write(
            f"Images that could not be read and were left out ({len(broken)}; broken='stop' says why):\n"
            f"  {listing}"
        )


def _names_by_folder(class_names: Mapping[str, str], folders: Sequence[str]) -> dict[str, str]:
    missing = [folder for folder in folders if folder not in class_names]
    if class_names and missing:
        raise ValueError(
            f"No name is given for {len(missing)} of {len(folders)} classes, such as {missing[0]}; "
            "class_names (the file of --class_names) must list every class folder, or be left out."
        )
    return {folder: class_names[folder] for folder in folders} if class_names else {}


def _check_choices(**choices: tuple[str, Sequence[str]]) -> None:
    for name, (value, known) in choices.items():
        if value not in known:
            raise ValueError(f"{name} is {value!r}; give one of {', '.join(known)}.")


def _check_numbers(
    images_per_shard: int, batch_size: int | None, seed: int, process_index: int, num_processes: int
) -> None:
    if images_per_shard < 1 or (batch_size is not None and batch_size < 1):
        raise ValueError(
            f"images_per_shard is {images_per_shard} and batch_size {batch_size}, but both count images; "
            "give at least 1."
        )
    if seed < 0:
        raise ValueError(f"The seed is {seed}, but seeds count from 0; give 0 or more.")
    if not 0 <= process_index < num_processes:
        raise ValueError(
            f"process_index is {process_index} of {num_processes} processes, but they count from 0; give one "
            "below the number of processes."
        )


def _bar(total: int, initial: int, shown: bool):
    from tqdm.auto import tqdm

    return tqdm(
        total=total, initial=initial, desc="encoding", unit=" images", disable=not shown, dynamic_ncols=True
    )
