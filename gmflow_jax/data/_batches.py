"""The order of the examples, as a pure function of seed and step, so that a restart repeats it."""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import numpy as np

# Rows of a global batch: a slice, row numbers, or None for all rows.
Rows = slice | Sequence[int] | np.ndarray | None


def epoch_indices(seed: int, step: int, batch_size: int, num_examples: int) -> np.ndarray:
    """Return the indices of the examples of one batch.

    The batches cut one endless stream, which has a new permutation of all examples in each epoch, drawn
    from (seed, epoch). So every epoch has each example once, a batch may span two epochs, no example is
    dropped, and the stream is the same for every batch size. The last two permutations are cached.

    Args:
      seed: seed of the permutations, 0 or more.
      step: number of the batch, counted from 0.
      batch_size: examples in a batch.
      num_examples: examples in the data set.

    Returns:
      int64 [batch_size].

    Raises:
      ValueError: if the seed or the step is negative, or a size is below 1.
    """
    return stream_indices(seed, stream_positions(step, batch_size), num_examples)


def stream_positions(step: int, batch_size: int, rows: Rows = None) -> np.ndarray:
    """Return the positions of the examples of batch `step` in the endless stream.

    Args:
      step: number of the batch, counted from 0.
      batch_size: examples in a batch.
      rows: the rows of the batch whose positions are returned; None is all of them.

    Returns:
      int64 [n].

    Raises:
      ValueError: if the step is negative or the batch size is below 1.
    """
    if step < 0 or batch_size < 1:
        raise ValueError(
            f"The step is {step} and the batch size {batch_size}, but steps count from 0 and a batch "
            "holds at least one example; check the configuration."
        )
    positions = step * batch_size + np.arange(batch_size)
    return positions if rows is None else positions[rows]


def stream_indices(seed: int, positions: np.ndarray, num_examples: int) -> np.ndarray:
    """Return the indices of the examples at positions of the endless stream, see `epoch_indices`.

    Args:
      seed: seed of the permutations, 0 or more.
      positions: int [n].
      num_examples: examples in the data set.

    Returns:
      int64 [n].

    Raises:
      ValueError: if the seed is negative or there are no examples.
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


@dataclasses.dataclass(frozen=True, eq=False)
class Batches:
    """A `batch_fn(step, rows=None)` over arrays in memory, in the order of `epoch_indices`.

    A call returns a dict with the rows of each array. `rows` selects rows of the global batch; only these
    are made.

    Attributes:
      arrays: arrays with a common first axis, by name, for instance `{"x_0": images, "labels": labels}`.
      batch_size: examples in the global batch.
      seed: seed of the permutations.

    Raises:
      ValueError: if there are no arrays or their lengths differ.
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
