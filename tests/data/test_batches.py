"""The order of the data: complete epochs, and no dependence on the batch size or on earlier calls."""

import time

import numpy as np
import pytest

from gmflow_jax import data


def stream(seed, batch_size, num_steps, num_examples):
    return np.concatenate(
        [data.epoch_indices(seed, step, batch_size, num_examples) for step in range(num_steps)]
    )


def test_every_epoch_shows_each_example_once():
    epochs = stream(seed=3, batch_size=10, num_steps=14, num_examples=35).reshape(4, 35)
    np.testing.assert_array_equal(np.sort(epochs, axis=1), np.tile(np.arange(35), (4, 1)))
    assert len({tuple(epoch) for epoch in epochs}) == 4


@pytest.mark.parametrize("batch_size", [1, 7, 35, 120])
def test_stream_does_not_depend_on_the_batch_size(batch_size):
    expected = stream(seed=0, batch_size=10, num_steps=84, num_examples=35)
    actual = stream(seed=0, batch_size=batch_size, num_steps=840 // batch_size, num_examples=35)
    np.testing.assert_array_equal(actual, expected[:len(actual)])


def test_seeds_differ():
    assert (stream(0, 10, 3, 100) != stream(1, 10, 3, 100)).any()


def test_batches_keep_rows_together_and_depend_on_the_step_alone():
    labels = np.arange(50)
    batch_fn = data.Batches({"x_0": labels[:, None] * np.ones(3), "labels": labels}, 8, seed=1)
    forward = [batch_fn(step)["labels"] for step in range(9)]
    backward = [batch_fn(step)["labels"] for step in reversed(range(9))][::-1]
    np.testing.assert_array_equal(forward, backward)
    batch = batch_fn(123_456)
    assert batch["x_0"].shape == (8, 3)
    np.testing.assert_array_equal(batch["x_0"][:, 0], batch["labels"])


@pytest.mark.parametrize("arguments", [(-1, 0, 4, 8), (0, -1, 4, 8), (0, 0, 0, 8), (0, 0, 4, 0)])
def test_bad_arguments_are_refused(arguments):
    with pytest.raises(ValueError, match=r"; .*\.$"):
        data.epoch_indices(*arguments)


@pytest.mark.parametrize("arrays", [{}, {"x_0": np.zeros(3), "labels": np.zeros(4)}])
def test_arrays_must_have_equal_lengths(arrays):
    with pytest.raises(ValueError, match=r"common length"):
        data.Batches(arrays, 2)


@pytest.mark.parametrize("rows", [slice(2, 5), [7, 0, 3], np.arange(8) % 2 == 0, slice(0, 0)])
def test_row_slices_equal_rows_of_the_whole_batch(rows):
    images = np.random.default_rng(0).normal(size=(11, 3))
    batch_fn = data.Batches({"x_0": images, "labels": np.arange(11)}, 8)
    for step in range(4):  # the second one spans two epochs
        whole, part = batch_fn(step), batch_fn(step, rows)
        for name in whole:
            np.testing.assert_array_equal(part[name], whole[name][rows])


def test_the_hosts_share_the_whole_batch():
    batch_fn = data.Batches({"labels": np.arange(11)}, 8)
    parts = [batch_fn(5, slice(start, start + 2))["labels"] for start in range(0, 8, 2)]
    np.testing.assert_array_equal(np.concatenate(parts), batch_fn(5)["labels"])


def test_the_order_of_an_epoch_is_not_drawn_anew_in_each_step():
    """A permutation of 1.28 million examples takes 30 ms; 200 steps must take much less than 200 of them."""
    start = time.process_time()
    for step in range(200):
        data.epoch_indices(0, step, 256, 1_281_167)
    assert time.process_time() - start < 2  # measured 0.05; 200 permutations take 6


def test_the_order_of_examples_is_that_of_earlier_versions():
    """A run that is resumed with a newer version of this package must see the same examples."""
    assert data.epoch_indices(5, 2, 6, 8).tolist() == [7, 6, 3, 1, 0, 4]
