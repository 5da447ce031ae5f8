"""When guidance calls the unconditional network, and which scales and null conditions it takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, guidance, solvers
from tests.helpers import assert_trees_close

pytestmark = pytest.mark.usefixtures("fast_compile")

X = jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 2, 2)), jnp.float32)
ON = {"probabilistic": 0.3, "cfg": 2.0}


class Network:
    """A denoiser that counts its evaluations, also in compiled programs, and the samples of the last one."""

    def __init__(self, shift=0.0):
        self.shift, self.calls, self.samples = shift, 0, None

    def count(self, x_t):
        self.calls, self.samples = self.calls + 1, x_t.shape[0]

    def __call__(self, x_t, t, condition=None):
        jax.debug.callback(self.count, x_t)
        shift = self.shift if condition is None else condition[:, None, None, None, None]
        means = jnp.stack([jnp.sin(x_t), x_t], axis=-2) + shift
        return gm.GaussianMixture(means, jnp.full(means.shape[:-1], -np.log(2), jnp.float32), jnp.zeros(()))


def sampled(denoise, jit=True):
    run = lambda x: solvers.sample(None, denoise, x, solvers.euler(), flow.time_grid(5))  # noqa: E731
    result = (jax.jit(run) if jit else run)(X)
    jax.effects_barrier()
    return result


@pytest.mark.parametrize("method", guidance.METHODS)
def test_off_is_the_conditional_denoiser(method):
    cond, uncond = Network(), Network(1.0)
    denoise = guidance.guided_denoiser(cond, uncond, guidance.METHODS[method], method)
    assert denoise is cond
    each = guidance.guided_denoiser(cond, uncond, np.full(3, guidance.METHODS[method]), method)
    assert each is cond


@pytest.mark.parametrize("method", guidance.METHODS)
def test_outside_the_interval_the_unconditional_network_is_not_called(method):
    cond, uncond = Network(), Network(1.0)
    denoise = guidance.guided_denoiser(cond, uncond, ON[method], method, interval=(0.3, 0.7))
    found = sampled(denoise)
    assert (cond.calls, uncond.calls) == (5, 2)  # at 0.6 and 0.4
    known = denoise(X, 0.9)  # a known time needs no branch
    jax.effects_barrier()
    assert (cond.calls, uncond.calls) == (6, 2)
    mixture = known.mixture if method == "probabilistic" else known
    np.testing.assert_allclose(gm.mean(mixture), gm.mean(cond(X, 0.9)), atol=1e-6)
    always = sampled(guidance.guided_denoiser(cond, uncond, ON[method], method))
    assert uncond.calls == 7 and jnp.max(jnp.abs(always - found)) > 0.01


def test_one_batch_makes_the_conditional_half_alone_where_guidance_is_off():
    network, labels = Network(), jnp.arange(3.0)
    one = guidance.in_one_batch(network, labels, 7.0)
    off = guidance.guided_denoiser(one, None, 0.0)
    found = gm.mean(off(X, 0.5))
    jax.effects_barrier()
    assert (network.calls, network.samples) == (1, 3)
    np.testing.assert_array_equal(found, gm.mean(network(X, 0.5, labels)))
    outside = guidance.guided_denoiser(one, None, 0.3, interval=(0.3, 0.8))
    outside(X, 0.9)
    jax.effects_barrier()
    assert network.samples == 3
    outside(X, 0.5)
    jax.effects_barrier()
    assert network.samples == 6


def test_a_traced_scale_and_times_per_sample():
    """One compiled program serves all scales; a sample outside the interval is not guided."""
    cond, uncond = Network(), Network(1.0)

    @jax.jit
    def run(scale, t):
        return guidance.guided_denoiser(cond, uncond, scale, interval=(0.3, 0.8))(X, t)

    times = jnp.asarray([0.9, 0.5, 0.2])
    found = run(jnp.asarray([0.4, 0.3, 0.2]), times)
    np.testing.assert_allclose(found.scale[:, 0, 0], [0, 0.3, 0], rtol=1e-6)
    off = run(jnp.zeros(3), times)
    np.testing.assert_allclose(gm.mean(off.mixture), gm.mean(cond(X, 0.5)), atol=1e-6)


def test_cfg_is_plain_unless_a_projection_is_asked_for():
    cond, uncond = Network(), Network(1.0)
    mean_cond, mean_uncond = gm.mean(cond(X, 0.5)), gm.mean(uncond(X, 0.5))
    plain = guidance.guided_denoiser(cond, uncond, 3.0, "cfg")(X, 0.5)
    np.testing.assert_allclose(gm.mean(plain), mean_cond + 2 * (mean_cond - mean_uncond), atol=1e-5)
    projected = guidance.guided_denoiser(cond, uncond, 3.0, "cfg", orthogonal=1.0)(X, 0.5)
    expected = guidance.classifier_free_guidance(mean_cond, mean_uncond, 3.0, orthogonal=1.0)
    np.testing.assert_allclose(gm.mean(projected), expected, atol=1e-5)


@pytest.mark.parametrize("method", guidance.METHODS)
def test_a_scale_per_sample_may_have_the_rank_of_the_batch(method):
    cond, uncond = Network(), Network(1.0)
    scales = jnp.asarray([0.1, 0.2, 0.5]) + guidance.METHODS[method]
    flat, full = (
        guidance.guided_denoiser(cond, uncond, s, method)(X, 0.5) for s in (scales, scales[:, None, None])
    )
    assert_trees_close(full, flat, rtol=0, atol=0)
    one = guidance.guided_denoiser(cond, uncond, float(scales[1]), method)(X, 0.5)
    assert_trees_close(jax.tree.map(lambda a: a[1:2] if a.ndim else a, full),
                       jax.tree.map(lambda a: a[1:2] if a.ndim else a, one), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match=r"^scale has shape \(2, 1, 1\).*guidance scale"):
        guidance.guided_denoiser(cond, uncond, scales[:2, None, None], method)(X, 0.5)


def test_one_batch_can_be_jitted():
    one = guidance.in_one_batch(Network(), jnp.arange(3.0), 0)
    assert_trees_close(jax.jit(one)(X, 0.5), one(X, 0.5), rtol=0, atol=1e-6)


def test_null_labels_beyond_the_dtype_of_the_labels_are_kept():
    seen = guidance.in_one_batch(lambda x_t, t, c: c, jnp.arange(3, dtype=jnp.uint8), jnp.full(3, 300))
    np.testing.assert_array_equal(seen(X, 0.5)[1], 300)


def test_branches_of_an_interval_may_predict_in_two_dtypes(x64):
    cond = lambda x, t: gm.Gaussian(x, jnp.ones((), jnp.float32))  # noqa: E731
    uncond = lambda x, t: gm.Gaussian(x.astype(jnp.float64) + 1, jnp.ones(()))  # noqa: E731
    denoise = guidance.guided_denoiser(cond, uncond, 0.3, interval=(0.3, 0.8))
    for t in (0.9, 0.5):
        found, expected = jax.jit(denoise)(X, t), denoise(X, t)
        np.testing.assert_allclose(gm.mean(found.mixture), gm.mean(expected.mixture), atol=1e-6)


NULLS = {"scalar": 7.0, "one row": np.full((1, 4), 7.0, np.float32), "rows": np.full((3, 4), 7.0, np.float32)}


@pytest.mark.parametrize("null", NULLS.values(), ids=NULLS)
def test_null_conditions_may_be_shared(null):
    embeddings = jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)), jnp.float32)

    def denoise(x_t, t, condition):
        return Network()(x_t, t, condition.mean(axis=-1))

    found = guidance.in_one_batch(denoise, embeddings, null)(X, 0.5)[1]
    assert_trees_close(found, denoise(X, 0.5, jnp.full((3, 4), 7.0)), rtol=0, atol=0)


@pytest.mark.parametrize(
    "null, message",
    [
        (np.ones((2, 4), np.float32), r"\(2, 4\).*\(3, 4\).*size 1"),
        (np.ones(4, np.float32), r"\(4,\).*\(3, 4\).*same axes"),
        (np.ones((1, 4), np.int32), "int32.*float32"),
        ({"a": 0.0}, "structures"),
    ],
)
def test_null_conditions_that_do_not_fit_are_refused(null, message):
    with pytest.raises(ValueError, match=message):
        guidance.in_one_batch(Network(), jnp.ones((3, 4)), null)


@pytest.mark.parametrize("method", guidance.METHODS)
def test_the_aux_of_the_conditional_prediction_comes_back(method):
    """By two calls, by one, and from a branch, beside the prediction that there is without aux."""
    labels = jnp.arange(3.0)

    def network(x_t, t, condition):
        return Network()(x_t, t, condition), {"label": condition, "t": t}

    def pair(labels):
        return lambda x, t: network(x, t, labels)

    plain = guidance.guided_denoiser(
        lambda x, t: network(x, t, labels)[0], lambda x, t: network(x, t, labels + 1)[0], ON[method], method
    )
    one = guidance.in_one_batch(network, labels, labels + 1)
    for networks in ((pair(labels), pair(labels + 1)), (one, None)):
        denoise = guidance.guided_denoiser(*networks, ON[method], method, interval=(0.3, 0.7))
        found, aux = denoise(X, 0.5)
        assert_trees_close(found, plain(X, 0.5), rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(aux["label"], labels)
        _, aux = solvers.sample(
            None, denoise, X, solvers.euler(), flow.time_grid(4), return_trajectory=True, has_aux=True
        )
        np.testing.assert_array_equal(aux["t"], [1.0, 0.75, 0.5, 0.25])
        np.testing.assert_array_equal(aux["label"][-1], labels)


def test_predictions_that_cannot_be_guided_are_refused():
    known = guidance.observe(Network(), X, 0.0)
    with pytest.raises(ValueError, match=r"Only one of the two predictions is observed.*around the guided"):
        guidance.guided_denoiser(known, Network(1.0), 2.0, "cfg")(X, 0.5)
    with pytest.raises(ValueError, match=r"one is of type dict.*denoise_uncond"):
        guidance.guided_denoiser(lambda x, t: (Network()(x, t), {}), None, 0.3)(X, 0.5)
