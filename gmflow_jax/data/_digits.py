"""The 1,797 handwritten digits that scikit-learn ships: real data that needs no download."""

from typing import NamedTuple

import numpy as np

_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Digits(NamedTuple):
    """`images` [1797, 8, 8, 1] float32 in [-1, 1], `labels` [1797] int32, names zero to nine."""

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


def digits() -> Digits:
    """Load the 8 x 8 digits of scikit-learn (UCI, Alpaydin and Kaynak 1998), all 1,797 of them.

    A pixel has one of 17 levels, the integers 0 to 16; the model's range is level / 8 - 1.
    Raises ImportError with a sentence if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError(
            "The digits come with scikit-learn, which is not installed; install it with "
            "`pip install scikit-learn` or the extra `gmflow-jax[train]`."
        ) from error
    data = load_digits()
    images = (data.images / 8 - 1).astype(np.float32)[..., None]
    return Digits(images, data.target.astype(np.int32), _NAMES)


def to_unit_range(images) -> np.ndarray:
    """Map images from the model's range [-1, 1] to pixels in [0, 1], clipped; any shape."""
    return np.clip((np.asarray(images) + 1) / 2, 0, 1)
