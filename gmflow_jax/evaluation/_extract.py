"""Features of images, on all devices."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gmflow_jax.evaluation._checks import check_images

if TYPE_CHECKING:
    from flax import nnx

_IMAGES_PER_DEVICE = 32


T_co = TypeVar("T_co", covariant=True)


class NetworkOutput(Protocol[T_co]):
    """The fields of `models.InceptionFeatures`, with one value or array for each."""

    @property
    def pool3(self) -> T_co: ...

    @property
    def spatial(self) -> T_co: ...

    @property
    def logits(self) -> T_co: ...


class FeatureExtractor:
    """Compiled feature extraction, with batches split over devices.

    Each image size is compiled once, and again for a half, a quarter, ... of a batch if that suffices for
    the images. The features of an image do not depend on the other images.

    Attributes:
      batch_size: images on the devices at a time, a multiple of the number of devices.
      fingerprint: `models.fingerprint` of the network's parameters.
    """

    def __init__(
        self,
        inception: "nnx.Module",
        batch_size: int | None = None,
        devices: Sequence[jax.Device] | None = None,  # pyright: ignore[reportInvalidTypeForm]  # no stubs
    ):
        """Compile a feature network.

        Args:
          inception: network that maps uint8 images [B, H, W, 3] to a NamedTuple such as
            `models.InceptionFeatures`, of arrays [B, ...].
          batch_size: images on the devices at a time, rounded up to a multiple of the number of devices;
            None is 32 for each device.
          devices: the devices; None is all devices of this process.

        Raises:
          ValueError: if `batch_size` is below 1.
        """
        from gmflow_jax.models import fingerprint, functional

        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; give at least 1.")
        devices = list(devices or jax.local_devices())
        self._num_devices = len(devices)
        mesh = Mesh(np.asarray(devices), ("data",), axis_types=(AxisType.Auto,))
        self.batch_size = -(-(batch_size or _IMAGES_PER_DEVICE * len(devices)) // len(devices)) * len(devices)
        self._shared = NamedSharding(mesh, PartitionSpec("data"))
        apply, params = functional(inception)
        self.fingerprint = fingerprint(params)
        self._params = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
        self._apply = jax.jit(apply, out_shardings=self._shared)

    def __call__(self, images: np.ndarray) -> NetworkOutput[np.ndarray]:
        """Compute the features of images.

        Two batches are held at a time beside the images and the features.

        Args:
          images: uint8 [N, H, W, 3].

        Returns:
          The network's NamedTuple, of float32 numpy arrays [N, ...].

        Raises:
          ValueError: if the images are of another dtype or shape, or there are none.
        """
        images = check_images(images)
        features = []
        coming = self._start(images[: self.batch_size])
        for start in range(self.batch_size, len(images), self.batch_size):
            current, coming = coming, self._start(images[start : start + self.batch_size])
            features.append(_fetch(current))
        features.append(_fetch(coming))
        return jax.tree.map(lambda *batches: np.concatenate(batches)[: len(images)], *features)

    @property
    def widths(self) -> NetworkOutput[int]:
        """The number of features of each kind, in the network's NamedTuple."""
        images = jax.ShapeDtypeStruct((self.batch_size, 299, 299, 3), np.uint8)
        return jax.tree.map(lambda x: x.shape[-1], jax.eval_shape(self._apply, self._params, images))

    def _start(self, images: np.ndarray) -> NetworkOutput[jax.Array]:
        """Start computing the features of up to `batch_size` images, padded with black ones.

        The arrays are returned while the devices still compute them.
        """
        size = self.batch_size
        while size % (2 * self._num_devices) == 0 and size // 2 >= len(images):
            size //= 2  # a smaller batch suffices
        padded = np.zeros((size, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        # Scores of different papers are compared to the third digit, so products are in float32 also on
        # devices whose default precision is lower.
        with jax.default_matmul_precision("highest"):
            return self._apply(self._params, jax.device_put(padded, self._shared))


def _fetch(features: NetworkOutput[jax.Array]) -> NetworkOutput[np.ndarray]:
    return jax.tree.map(lambda array: np.asarray(array, np.float32), features)
