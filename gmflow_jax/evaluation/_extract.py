"""Features of images, on all devices."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from gmflow_jax.evaluation._checks import check_images

if TYPE_CHECKING:
    from flax import nnx

_IMAGES_PER_DEVICE = 32


class FeatureExtractor:
    """Compiled features of batches, shared by devices.

    Every image size is compiled for once, and again for a half, a quarter, ... of a batch where that is
    enough. What an image's features are does not depend on the others.

    Attributes:
      batch_size: Images that are on the devices at once, a multiple of the number of devices, at least
        `batch_size` as given; by default 32 on each.
      fingerprint: `models.fingerprint` of the network's parameters.
    """

    def __init__(
        self,
        inception: "nnx.Module",
        batch_size: int | None = None,
        devices: Sequence[jax.Device] | None = None,
    ):
        """`inception` maps uint8 images [B, H, W, 3] to a NamedTuple of arrays [B, ...].

        `devices` are those of this process by default. Raises ValueError if `batch_size` < 1.
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

    def __call__(self, images: np.ndarray) -> NamedTuple:
        """Features of uint8 images [N, H, W, 3]: the network's NamedTuple, of float32 numpy arrays [N, ...].

        Beyond images and features, two batches are held. Raises ValueError for images of another dtype or
        shape, or none.
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
    def widths(self) -> NamedTuple:
        """The number of features of each kind that an image has, in the network's NamedTuple."""
        images = jax.ShapeDtypeStruct((self.batch_size, 299, 299, 3), np.uint8)
        return jax.tree.map(lambda x: x.shape[-1], jax.eval_shape(self._apply, self._params, images))

    def _start(self, images: np.ndarray) -> NamedTuple:
        """Features of up to `batch_size` images, and of black ones after them; the devices still compute."""
        size = self.batch_size
        while size % (2 * self._num_devices) == 0 and size // 2 >= len(images):
            size //= 2  # few images need not take the time of many
        padded = np.zeros((size, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        # Figures of different papers are compared to the third digit, so float32 is meant, also where
        # devices multiply in less by default.
        with jax.default_matmul_precision("highest"):
            return self._apply(self._params, jax.device_put(padded, self._shared))


def _fetch(features: NamedTuple) -> NamedTuple:
    return jax.tree.map(lambda array: np.asarray(array, np.float32), features)
