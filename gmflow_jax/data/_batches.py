"""The order of the examples, as a pure function of seed and step, so that a restart repeats it."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

# Rows of a global batch: all of them, some by number, or a slice.
Rows = slice | Sequence[int] | np.ndarray | None


def epoch_indices(seed: int, step: int, batch_size: int, num_examples: int) -> np.ndarray:
    """Indices [batch_size] of the examples in batch `step` (counted from 0).

    The batches cut one endless stream, a fresh permutation of all examples per epoch, drawn from
    (seed, epoch). So every epoch shows each example once, a batch may span two epochs, nothing is
    dropped, and the stream is the same for every batch size. The permutations of the last two
    epochs asked for are kept.
    Raises ValueError for a negative seed or step, or sizes below 1.
    """
    return stream_indices(seed, stream_positions(step, batch_size), num_examples)


def stream_positions(step: int, batch_size: int, rows: Rows = None) -> np.ndarray:
    """Positions [n] in the stream of these rows of batch `step`, int64; of all rows if None.

    Raises ValueError for a negative step or a batch size below 1.
    """
    if step < 0 or batch_size < 1:
        raise ValueError(
            f"The step is {step} and the batch size {batch_size}, but steps count from 0 and a batch "
            "holds at least one example; check the configuration."
        )
    positions = step * batch_size + np.arange(batch_size)
    return positions if rows is None else positions[rows]


def stream_indices(seed: int, positions: np.ndarray, num_examples: int) -> np.ndarray:
    """Indices [n] of the examples at these positions [n] of the endless stream.

    Raises ValueError for a negative seed or no examples.
    """
    if seed < 0 or num_examples < 1:
        raise ValueError(
            f"The seed is {seed} and there are {num_examples} examples, but seeds count from 0 and there "
            "must be an example; check the configuration and that the data was loaded."
        )
    epochs, places = np.divmod(positions, num_examples)
    indices = np.empty_like(places)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = _permutation(seed, int(epoch), num_examples)[places[here]]
    return indices


@functools.lru_cache(maxsize=2)  # a batch may span two epochs; 1.28 million indices take 30 ms to draw
def _permutation(seed: int, epoch: int, num_examples: int) -> np.ndarray:
    permutation = np.random.default_rng((seed, epoch)).permutation(num_examples)
    permutation.flags.writeable = False
    return permutation


@dataclass(frozen=True, eq=False)
class Batches:
    """`batch_fn(step, rows=None)` over arrays in memory: a dict of their rows at `epoch_indices`.

    `arrays` maps names to arrays with a common first axis, for instance
    `{"x_0": images, "labels": labels}`. `rows` picks rows of the global batch; no others are made.
    Raises ValueError when the arrays differ in length or there are none.
    """

    arrays: Mapping[str, np.ndarray]
    batch_size: int
    seed: int = 0

    def __post_init__(self):
        lengths = {name: len(array) for name, array in self.arrays.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(
                f"The arrays have lengths {lengths}, but rows that belong together need arrays "
                "of one common length; give at least one array, and equal first axes."
            )

    def __call__(self, step: int, rows: Rows = None) -> dict[str, np.ndarray]:
        num_examples = len(next(iter(self.arrays.values())))
        positions = stream_positions(step, self.batch_size, rows)
        indices = stream_indices(self.seed, positions, num_examples)
        return {name: array[indices] for name, array in self.arrays.items()}
