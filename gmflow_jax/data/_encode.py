"""From images to the moments of their latents, on all devices and ahead of them."""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gmflow_jax.data._crop import center_crop
from gmflow_jax.data._sources import ImageSource

if TYPE_CHECKING:
    from gmflow_jax.models import AutoencoderKL

T = TypeVar("T")
R = TypeVar("R")

_IMAGES_PER_DEVICE = 16
_UNREADABLE = (FileNotFoundError, PermissionError, IsADirectoryError)  # a dangling link is not found


class Encoder:
    """Compiled encoding of batches of a fixed size, shared by devices.

    Attributes:
      batch_size: A multiple of the number of devices, at least `batch_size` as given; by default 16
        on each.
    """

    def __init__(
        self, autoencoder: "AutoencoderKL", batch_size: int | None, devices: Sequence[jax.Device] | None
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
        """Mean and standard deviation [batch_size, views, 2, h, w, C] of up to `batch_size` images.

        `images` is uint8 [n, views, H, W, C]. The result is on its way: the devices still compute.
        """
        padded = np.zeros((self.batch_size, *images.shape[1:]), np.uint8)
        padded[:len(images)] = images
        # Latents are computed once and used for months, so float32 is meant, also where devices
        # multiply in less by default.
        with jax.default_matmul_precision("highest"):
            return self._moments(self._params, jax.device_put(padded, self._shared))


class BrokenImage(ValueError):
    """An image cannot be opened, or its bytes are not those of one."""


def read_pixels(source: ImageSource, index: int, size: int) -> np.ndarray:
    """The centre crop of an image, uint8 [size, size, 3].

    Raises BrokenImage, a ValueError, naming it if it cannot be opened or decoded; errors of the disk or
    the network stay what they are.
    """
    try:
        return center_crop(source.open(index), size)
    except Exception as error:  # Pillow raises many kinds for damaged bytes, also of OSError
        fatal = isinstance(error, MemoryError) or getattr(error, "errno", None) is not None
        if fatal and not isinstance(error, _UNREADABLE):
            raise
        raise BrokenImage(
            f"The image {source.name(index)} is broken ({error}); mend or remove it, or skip broken images."
        ) from error


def submit_ahead(
    executor: Executor, function: Callable[[T], R], items: Iterable[T], window: int
) -> Iterator[Future[R]]:
    """Futures of function(item) in order, of which up to `window` are under way."""
    futures: collections.deque[Future[R]] = collections.deque()
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
