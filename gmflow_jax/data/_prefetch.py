"""Batches made ahead of the step that needs them."""

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
    """Yields batch_fn(start), ..., batch_fn(stop - 1), computed ahead by Grain.

    Args:
      batch_fn: A function of the step alone, such as `LatentBatches`.
      num_threads: Threads in each process, 0 for none.
      buffer_size: Batches that are held in advance in each process.
      num_workers: Processes that compute batches, 0 for none. They need a `batch_fn` that can be
        pickled, a `__main__` guard, and flags that absl has parsed.

    An exception of `batch_fn` is raised where its batch would come. Threads and processes end with the
    iterator, also when it is closed or dropped before its end. Raises ValueError for negative numbers.
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
    """An exception in place of a batch: Grain would add to it, and processes would change its type."""

    error: Exception


class _Steps:
    """A data source, as Grain calls it, whose element i is the batch of step `start` + i."""

    def __init__(self, batch_fn: Callable[[int], Any], start: int, stop: int):
        self._batch_fn, self._start, self._length = batch_fn, start, max(stop - start, 0)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, i: int) -> Any:
        try:
            return self._batch_fn(self._start + int(i))
        except Exception as error:
            return _Failure(error)
