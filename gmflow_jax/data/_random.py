"""Random numbers of a row, which depend on the seed and the row's position only."""

from collections.abc import Iterable, Iterator

import numpy as np


def row_generators(seed: int, positions: Iterable[int]) -> Iterator[np.random.Generator]:
    """Yield a generator for each position, to be used before the next one is requested.

    Each position has 2**64 blocks of the counter of Philox (Salmon et al. 2011), so rows never share
    numbers.
    """
    bits = np.random.Philox(key=seed)
    # Setting the state takes 1 microsecond, a new Philox 7.
    state, generator = bits.state, np.random.Generator(bits)
    for position in positions:
        state["state"]["counter"][:] = (0, 0, position, 0)
        bits.state = state
        yield generator


def flip(generator: np.random.Generator) -> int:
    """Draw whether the row's image is mirrored: 1 or 0, with equal probability; a row's first draw."""
    return int(generator.integers(2))
