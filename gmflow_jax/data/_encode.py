"""Encoding of images to the moments of their latents, on all devices."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from PIL import UnidentifiedImageError

from gmflow_jax._files import BucketError
from gmflow_jax.data._crop import center_crop
from gmflow_jax.data._sources import ImageSource

if TYPE_CHECKING:
    from gmflow_jax.models import AutoencoderKL

_T = TypeVar("_T")
_R = TypeVar("_R")

_IMAGES_PER_DEVICE = 16
# A dangling link raises FileNotFoundError.
_UNREADABLE = (FileNotFoundError, PermissionError, IsADirectoryError)


class Encoder:
    """Compiled encoding of batches of a fixed size, split over devices.

    Args:
      autoencoder: the autoencoder.
      batch_size: images that are encoded at a time on all devices together, rounded up to a multiple of
        the number of devices; None is 16 for each device.
      devices: the devices; None is all devices of this process.

    Attributes:
      batch_size: the batch size after rounding.
    """

    def __init__(
        self,
        autoencoder: "AutoencoderKL",
        batch_size: int | None,
        devices: Sequence[jax.Device] | None,  # pyright: ignore[reportInvalidTypeForm]  # jaxlib has no stubs
    ):
        from gmflow_jax.models import functional

        devices = list(devices or jax.local_devices())
        mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
        self.batch_size = -(-(batch_size or _IMAGES_PER_DEVICE * len(devices)) // len(devices)) * len(devices)
        self._shared = NamedSharding(mesh, PartitionSpec("data"))
        encode, params = functional(autoencoder, "encode")
        self._params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))

        def moments(params, images):
            flat = images.reshape(-1, *images.shape[2:]).astype(jnp.float32) / 127.5 - 1
            mean, log_var = encode(params, flat)
            stacked = jnp.stack([mean, jnp.exp(log_var / 2)], axis=1)
            return stacked.reshape(*images.shape[:2], *stacked.shape[1:])

        self._moments = jax.jit(moments, out_shardings=self._shared)

    def __call__(self, images: np.ndarray) -> jax.Array:
        """Encode up to `batch_size` images.

        Args:
          images: uint8 [n, views, H, W, C].

        Returns:
          Mean and standard deviation, [batch_size, views, 2, h, w, C]; rows from n on are padding. The array
          is returned while the devices still compute it.
        """
        padded = np.zeros((self.batch_size, *images.shape[1:]), np.uint8)
        padded[:len(images)] = images
        # Latents are computed once and used for many runs, so products are in float32 also on devices
        # whose default precision is lower.
        with jax.default_matmul_precision("highest"):
            return self._moments(self._params, jax.device_put(padded, self._shared))


class BrokenImage(ValueError):
    """An image cannot be opened, decoded or converted."""


def read_pixels(source: ImageSource, index: int, size: int, exif_orientation: bool = False) -> np.ndarray:
    """Read an image and crop its centre.

    Args:
      source: the images.
      index: number of the image.
      size: pixels along a side of the crop.
      exif_orientation: see `center_crop`.

    Returns:
      uint8 [size, size, 3].

    Raises:
      BrokenImage: if the image cannot be opened, decoded or converted to 8 bits; its message has the
        image's name. This is a ValueError. Other errors of the disk or the network are passed on unchanged,
        so that an image is not left out because a bucket cannot be reached.
    """
    try:
        return center_crop(source.open(index), size, exif_orientation)
    except Exception as error:  # Pillow raises many types for damaged bytes, OSError among them
        fatal = isinstance(error, MemoryError | BucketError) or getattr(error, "errno", None) is not None
        if fatal and not isinstance(error, _UNREADABLE):
            raise
        unknown = isinstance(error, UnidentifiedImageError)  # its message only has an address in memory
        reason = "Pillow cannot read its format" if unknown else str(error).rstrip(".")
        raise BrokenImage(
            f"The image {source.name(index)} is broken ({reason}); repair or remove it, or skip broken "
            "images."
        ) from error


def submit_ahead(
    executor: Executor, function: Callable[[_T], _R], items: Iterable[_T], window: int
) -> Iterator[Future[_R]]:
    """Yield the futures of function(item), in order, and keep some of them running ahead.

    Args:
      executor: the executor that runs the function.
      function: function of one item.
      items: the items.
      window: number of futures that are submitted and not yet yielded.

    Yields:
      A future for each item.
    """
    futures: collections.deque[Future[_R]] = collections.deque()
    try:
        for item in items:
            futures.append(executor.submit(function, item))
            if len(futures) >= window:
                yield futures.popleft()
        while futures:
            yield futures.popleft()
    finally:
        for future in futures:
            future.cancel()
