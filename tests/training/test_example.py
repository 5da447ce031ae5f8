"""Training examples: the distribution of states, times and labels."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import training
from gmflow_jax.training._example import make_example

pytestmark = pytest.mark.usefixtures("fast_compile")


def test_a_part_of_a_batch_draws_the_same_as_the_whole():
    key = jax.random.key(3)
    x_0 = jax.random.normal(jax.random.key(0), (6, 4, 4, 2))
    labels = jnp.arange(6)
    options = {"num_classes": 6, "class_dropout_prob": 0.5}
    draw = jax.jit(functools.partial(training.draw_example, **options))
    whole = draw(key, x_0, labels)
    part = draw(key, x_0[4:], labels[4:], first_index=4)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[4:], b), whole, part)


@pytest.mark.parametrize("shape", [(20_000, 2), (500, 8, 5, 1)])
def test_marginals_of_both_states_follow_the_path(shape):
    # Given t, x_s and x_t are normal around (1 - time) x_0 with standard deviation `time`.
    x_0 = jnp.full(shape, 3.0)
    example = training.draw_example(jax.random.key(1), x_0, transition_ratio=0.4)
    assert example.labels is None
    np.testing.assert_allclose(example.s, 0.6 * example.t, rtol=1e-6)
    for x, time in ((example.x_s, example.s), (example.x_t, example.t)):
        time = time.reshape((-1,) + (1,) * (len(shape) - 1))
        z = (x - (1 - time) * x_0) / time
        assert abs(float(jnp.mean(z))) < 0.03
        assert abs(float(jnp.std(z)) - 1) < 0.03
    np.testing.assert_allclose(np.mean(np.asarray(example.t)), 0.5, atol=0.03)


def test_ratio_one_starts_from_the_data():
    x_0 = jax.random.normal(jax.random.key(0), (5, 2))
    example = training.draw_example(jax.random.key(1), x_0, transition_ratio=1.0)
    np.testing.assert_array_equal(example.x_s, x_0)
    np.testing.assert_array_equal(example.s, 0.0)
    t = example.t[:, None]
    np.testing.assert_allclose(example.x_t, (1 - t) * x_0 + t * example.noise, atol=1e-6)


def test_times_are_kept_off_the_data():
    zeros = jnp.zeros((2, 3))
    example = make_example(zeros, None, jnp.asarray([0.0, 1.0]), zeros, zeros)
    np.testing.assert_allclose(example.t, [training.MIN_TRAINING_TIME, 1.0])


def test_labels_drop_at_the_given_rate():
    labels = jnp.zeros((20_000,), jnp.int32)
    draw = jax.jit(lambda key: training.draw_example(
        key, jnp.zeros((20_000, 1)), labels, class_dropout_prob=0.1, num_classes=7
    ).labels)
    dropped = np.asarray(draw(jax.random.key(5)))
    assert set(np.unique(dropped)) == {0, 7}
    assert abs(np.mean(dropped == 7) - 0.1) < 0.01  # 4.7 standard deviations


def test_bad_options_are_refused():
    x_0, labels, key = jnp.zeros((2, 1)), jnp.zeros((2,), jnp.int32), jax.random.key(0)
    with pytest.raises(ValueError, match="transition_ratio is 0"):
        training.draw_example(key, x_0, transition_ratio=0.0)
    with pytest.raises(ValueError, match="no probability"):
        training.draw_example(key, x_0, class_dropout_prob=1.5)
    with pytest.raises(ValueError, match="null label is unknown"):
        training.draw_example(key, x_0, labels)
    for bad in (labels - 1, labels + 4):
        with pytest.raises(ValueError, match=r"a label must be from 0 to 2, or 3 for no class"):
            training.draw_example(key, x_0, bad, num_classes=3)
    for option in ("shift", "mean", "std"):
        with pytest.raises(ValueError, match=f"{option} is nan"):
            training.draw_example(key, x_0, **{option: np.nan})
