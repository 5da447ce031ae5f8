"""Images of TensorFlow Datasets, without TensorFlow."""

import functools
import io
from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np
from PIL import Image

from gmflow_jax.data._sources import ImageSource


class _DataSource(Protocol):
    """The attributes of a data source of TensorFlow Datasets that are used here."""

    dataset_info: Any
    decoders: Mapping[str, Any] | None

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping[str, Any]: ...


class TfdsSource(ImageSource):
    """A split of a dataset that was prepared as ArrayRecord, in its own order.

    Args:
      name: name of the dataset.
      split: name of the split.

    Raises:
      ValueError: if the dataset or the split cannot be opened, or has no feature 'image' or 'label'.
    """

    kind = "tfds"

    def __init__(self, name: str, split: str):
        import tensorflow_datasets as tfds

        self._spec = f"{name}:{split}"
        try:
            # For one split, data_source returns one source, not a tree of them.
            source = cast(_DataSource, tfds.data_source(name, split=split))
        except tfds.core.DatasetNotFoundError as error:
            raise ValueError(
                f"TensorFlow Datasets has no dataset {name!r}, and none is prepared in its folder; "
                "check the name and TFDS_DATA_DIR."
            ) from error
        except Exception as error:  # it raises many types, for a split, a version, a file format
            reason = str(error).split("\n")[0].rstrip(".")
            raise ValueError(
                f"The dataset tfds:{self._spec} cannot be opened ({reason}); prepare it with "
                "file_format='array_record', and check the split and TFDS_DATA_DIR."
            ) from error
        features = source.dataset_info.features
        if not {"image", "label"} <= set(features):
            raise ValueError(
                f"The dataset {name!r} has the features {', '.join(features)}, but image and label are "
                "needed; choose a dataset of classified images."
            )
        # Set here, not in data_source, which tfds.testing replaces: its fake data is decoded already.
        source.decoders = {"image": tfds.decode.SkipDecoding()}
        self._source, self.class_folders = source, tuple(features["label"].names)

    def __len__(self) -> int:
        return len(self._source)

    @property
    def labels(self) -> np.ndarray:
        """The label of each image, int32 [N]; the first access reads all records."""
        return self._labels

    @functools.cached_property
    def _labels(self) -> np.ndarray:
        return np.array([self._source[i]["label"] for i in range(len(self))], np.int32)

    def name(self, i: int) -> str:
        return f"{self._spec}/{i}"

    def open(self, i: int) -> Image.Image:
        image = self._source[i]["image"]
        if isinstance(image, bytes):
            return Image.open(io.BytesIO(image))
        return Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
