"""Batches of equal size, so that one compiled program serves all of them."""

import numpy as np


def full_batches(count: int, size: int) -> np.ndarray:
    """Return the indices 0 to count - 1 in order, as [num_batches, size].

    The last batch is filled up with indices from the start; drop the results beyond `count`.
    """
    return np.resize(np.arange(count), (-(-count // size), size))
