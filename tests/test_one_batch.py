"""Guidance by one call of the network on both conditions equals guidance by two calls."""

import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import gm, guidance
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
