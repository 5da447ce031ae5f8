"""Batches that are computed ahead of the training step."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple


def prefetch(
    batch_fn: Callable[[int], Any],
    start: int,
    stop: int,
    *,
    num_threads: int = 4,
    buffer_size: int = 8,
    num_workers: int = 0,
) -> Iterator[Any]:
    """Yield batch_fn(start), ..., batch_fn(stop - 1), computed ahead by Grain.

    Threads and processes end with the iterator, also when it is closed or dropped before its end.

    Args:
      batch_fn: function of the step alone, such as `LatentBatches`.
      start: the first step.
      stop: the step after the last one.
      num_threads: threads in each process; 0 for none.
      buffer_size: batches that each process holds in advance.
      num_workers: processes that compute batches; 0 for none. They need a `batch_fn` that can be pickled,
        a `__main__` guard, and flags that absl has parsed.

    Returns:
      An iterator over the batches. An exception of `batch_fn` is raised in place of its batch.

    Raises:
      ValueError: if a number is negative.
    """
    numbers = {"num_threads": num_threads, "buffer_size": buffer_size, "num_workers": num_workers}
    for name, value in numbers.items():
        if value < 0:
            raise ValueError(f"{name} is {value}, but it is a count; give 0 or more.")
    return _batches(_Steps(batch_fn, start, stop), **numbers)


def _batches(steps: "_Steps", num_threads: int, buffer_size: int, num_workers: int) -> Iterator[Any]:
    import grain

    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=buffer_size)
    dataset = grain.MapDataset.source(steps).to_iter_dataset(options)
    if num_workers:
        dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(num_workers=num_workers))
    iterator = iter(dataset)
    try:
        for batch in iterator:
            if isinstance(batch, _Failure):
                raise batch.error
            yield batch
    finally:
        iterator.close()


class _Failure(NamedTuple):
    """An exception in place of a batch: Grain would change its message, and processes its type."""

    error: Exception


class _Steps:
    """A Grain data source whose element i is the batch of step `start` + i."""

    def __init__(self, batch_fn: Callable[[int], Any], start: int, stop: int):
        self._batch_fn, self._start, self._length = batch_fn, start, max(stop - start, 0)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Any:
        try:
            return self._batch_fn(self._start + int(index))
        except Exception as error:
            return _Failure(error)
