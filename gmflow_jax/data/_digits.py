"""The 1,797 handwritten digits that scikit-learn ships: real data that needs no download."""

from typing import NamedTuple, cast

import numpy as np

_NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


class Digits(NamedTuple):
    """The digits.

    Attributes:
      images: float32 [1797, 8, 8, 1] in [-1, 1].
      labels: int32 [1797].
      class_names: "zero" to "nine".
    """

    images: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]


def digits() -> Digits:
    """Load all 1,797 digits of scikit-learn (UCI, Alpaydin and Kaynak 1998).

    A pixel has one of 17 levels, the integers 0 to 16, which are mapped to level / 8 - 1.

    Raises:
      ImportError: if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
        from sklearn.utils import Bunch
    except ImportError as error:
        raise ImportError(
            "The digits come with scikit-learn, which is not installed; install it with "
            "`pip install scikit-learn` or the extra `gmflow-jax[train]`."
        ) from error
    data = cast(Bunch, load_digits())  # it returns a tuple only with return_X_y=True
    images = (data.images / 8 - 1).astype(np.float32)[..., None]
    return Digits(images, data.target.astype(np.int32), _NAMES)


def to_unit_range(images) -> np.ndarray:
    """Map images of any shape from [-1, 1] to [0, 1], clipped."""
    return np.clip((np.asarray(images) + 1) / 2, 0, 1)
