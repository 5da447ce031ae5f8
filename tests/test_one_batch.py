"""Guidance by one call of the network on both conditions equals guidance by two calls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, guidance
from tests.helpers import assert_trees_close

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")

ROUNDING = dict(rtol=3e-6, atol=3e-6)  # of two different programs


@pytest.mark.parametrize("times", [0.5, [0.5, 0.4, 0.3]], ids=["scalar", "per sample"])
def test_one_batch_gives_what_two_calls_give(times):
    rng = np.random.default_rng(31)
    x, means = (jnp.asarray(rng.normal(size=n), jnp.float32) for n in ((3, 2, 2, 2), (5, 3, 2)))

    def denoise(x_t, t, label):
        t = jnp.broadcast_to(t, label.shape)[:, None, None, None, None]
        log_weights = jnp.full((*x_t.shape[:3], 3), -np.log(3.0), jnp.float32)
        moved = t * x_t[..., None, :] + means[label][:, None, None]
        return gm.GaussianMixture(moved, log_weights, jnp.zeros(()))

    labels, null, t = jnp.asarray([0, 3, 1]), jnp.full(3, 4), jnp.asarray(times, jnp.float32)
    found = guidance.in_one_batch(denoise, labels, null)(x, t)
    for prediction, condition in zip(found, (labels, null), strict=True):
        assert_trees_close(prediction, denoise(x, t, condition), **ROUNDING)
    one = guidance.guided_denoiser(guidance.in_one_batch(denoise, labels, null), None, 0.3)(x, t)
    two = guidance.guided_denoiser(
        lambda x, t: denoise(x, t, labels), lambda x, t: denoise(x, t, null), 0.3
    )(x, t)
    assert_trees_close(one, two, **ROUNDING)
    with pytest.raises(ValueError, match=r"x_t has 3 samples.* \[3, 2\].*one for each"):
        guidance.in_one_batch(denoise, labels, null)(x, jnp.ones(2))


def test_conditions_may_have_their_batch_axis_anywhere():
    """As one call for each condition; arrays marked with None are shared."""
    rng = np.random.default_rng(32)
    x, cache, tail = (jnp.asarray(rng.normal(size=n), jnp.float32) for n in ((3, 2), (4, 3, 2), (5, 2, 3)))
    condition = {"cache": [cache, cache + 1], "tail": tail, "table": jnp.arange(2.0), "none": None}
    null = {"cache": [0.0, cache[:, :1]], "tail": tail[:1], "table": jnp.arange(2.0), "none": None}

    def denoise(x_t, t, given):
        first, second = given["cache"]
        shift = jnp.sum(first * second, axis=0) + jnp.sum(given["tail"], axis=(0, 1))[:, None]
        assert first.shape == (4, len(x_t), 2) and given["table"].shape == (2,)
        return x_t + t * shift + given["table"][None], {"cache": first}  # with aux

    axes = {"cache": 1, "tail": -1, "table": None, "none": None}
    both = guidance.in_one_batch(denoise, condition, null, batch_axes=axes)
    full = {"cache": [0 * cache, jnp.tile(cache[:, :1], (1, 3, 1))], "tail": jnp.tile(tail[:1], (5, 1, 1))}
    for (found, _), given in zip(both(x, 0.5), (condition, {**condition, **full}), strict=True):
        np.testing.assert_allclose(found, denoise(x, 0.5, given)[0], rtol=3e-6, atol=3e-6)
    assert_trees_close(both.conditional(x, 0.5), denoise(x, 0.5, condition), **ROUNDING)
    with pytest.raises(ValueError, match=r"x_t has 2 samples.* \[3, 3, 3\]"):
        both(x[:2], 0.5)


def test_an_aux_may_have_its_batch_axis_anywhere():
    """Also where another axis has 2 B entries; numbers, and arrays that all samples share, stay whole."""
    cache, x = jnp.arange(8.0 * 4 * 3).reshape(8, 4, 3), jnp.zeros((4, 2))

    def network(x_t, t, cache):
        return flow.denoiser(lambda x, t: x)(x_t, t), {"cache": cache, "table": jnp.arange(8.0), "n": 3}

    both = guidance.in_one_batch(network, cache, 0.0, batch_axes=1)
    for interval in ((0.0, 1.0), (0.3, 0.7)):
        denoise = guidance.guided_denoiser(both, None, 0.3, interval=interval)
        aux = jax.jit(lambda t: denoise(x, t)[1])(0.5)  # noqa: B023
        np.testing.assert_array_equal(aux["cache"], cache)
        np.testing.assert_array_equal(aux["table"], np.arange(8.0))
        assert aux["n"] == 3
    np.testing.assert_array_equal(both(x, 0.5)[1][1]["cache"], 0 * cache)


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        (2, "axis 2 for a condition of shape \\(4, 3\\)"),
        ("a", "axis 'a'.*number of its axis"),
        ({"b": 0}, "no prefix of the condition's pytree.*one for each"),
        (None, "shared by all samples, but null_condition has other values"),
    ],
)
def test_batch_axes_must_fit(axes, message):
    condition, null = {"a": jnp.ones((4, 3))}, {"a": jnp.zeros((4, 1))}
    with pytest.raises(ValueError, match=message):
        guidance.in_one_batch(lambda x, t, c: x, condition, null, axes)
