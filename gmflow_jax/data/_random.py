"""Random numbers of a row, from the seed and the row's position alone."""

from collections.abc import Iterator, Sequence

import numpy as np


def row_generators(seed: int, positions: Sequence[int]) -> Iterator[np.random.Generator]:
    """A generator for each position, used before the next one is asked for.

    Philox (Salmon et al. 2011) counts in 2**64 blocks for each position, so rows never share numbers.
    """
    bits = np.random.Philox(key=seed)
    # Setting the state takes 1 microsecond, a new Philox 7.
    state, generator = bits.state, np.random.Generator(bits)
    for position in positions:
        state["state"]["counter"][:] = (0, 0, position, 0)
        bits.state = state
        yield generator


def flip(generator: np.random.Generator) -> int:
    """1 to mirror the row's picture, 0 not to, each half of the time; the first draw of a row."""
    return int(generator.integers(2))
