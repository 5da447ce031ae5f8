"""Prefetched batches come in order, errors are raised unchanged, and no thread is left running."""

import threading
import time

import numpy as np
import pytest
from absl import flags

from gmflow_jax import data


class OutOfRange(Exception):
    """An error that only this test raises."""


def batch_fn(step):
    if step >= 10:
        raise OutOfRange(f"Step {step} is too late.")
    time.sleep(0.002 * (step % 3))
    return {"x_0": np.full((2, 3), step, np.float32), "nested": {"step": np.int64(step)}}


def num_threads():
    return sum(thread.name.startswith("grain-prefetch") for thread in threading.enumerate())


def wait_until_threads_end():
    for _ in range(200):
        if not num_threads():
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize(("threads", "buffer_size"), [(4, 8), (1, 1), (0, 8), (4, 0)])
def test_batches_come_in_order(threads, buffer_size):
    batches = list(data.prefetch(batch_fn, 3, 10, num_threads=threads, buffer_size=buffer_size))
    assert [batch["nested"]["step"] for batch in batches] == list(range(3, 10))
    assert all((batch["x_0"] == step).all() for step, batch in enumerate(batches, 3))
    assert wait_until_threads_end()


def test_an_empty_range_of_steps_gives_no_batches():
    assert list(data.prefetch(batch_fn, 5, 5)) == []


def test_batches_are_made_ahead():
    made = []
    batches = data.prefetch(lambda step: made.append(step) or step, 0, 100, num_threads=2, buffer_size=5)
    assert next(batches) == 0
    for _ in range(200):
        if len(made) >= 6:
            break
        time.sleep(0.01)
    assert sorted(made) == list(range(6))  # the one that was taken, and five
    batches.close()


def test_errors_are_raised_unchanged():
    batches = data.prefetch(batch_fn, 8, 12)
    assert [next(batches)["nested"]["step"] for _ in range(2)] == [8, 9]
    with pytest.raises(OutOfRange, match=r"^Step 10 is too late\.$"):
        next(batches)
    del batches
    assert wait_until_threads_end()


def test_threads_end_when_the_iterator_is_dropped():
    batches = data.prefetch(batch_fn, 0, 10)
    next(batches)
    assert num_threads() > 0
    del batches
    assert wait_until_threads_end()


def test_processes_give_the_same_batches(moments_folder):
    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    batch_fn = data.LatentBatches(data.Latents(moments_folder), 4)
    batches = list(data.prefetch(batch_fn, 2, 5, num_workers=1, num_threads=1))
    assert len(batches) == 3
    for step, batch in enumerate(batches, 2):
        for name, array in batch_fn(step).items():
            np.testing.assert_array_equal(batch[name], array)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match=r"num_threads is -1, .*; give 0 or more"):
        data.prefetch(batch_fn, 0, 1, num_threads=-1)
