"""Densities, moments and samples against golden data, closed forms and each other."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads
from scipy.special import ndtr

from gmflow_jax import gm
from tests.helpers import (
    all_finite,
    assert_computes_bfloat16_in_float32,
    assert_message_names,
    assert_trees_close,
    call_each,
    permute_components,
    relative_error,
)

MOMENTS = {
    "mean": lambda q, x: gm.mean(q),
    "moment_match": lambda q, x: gm.moment_match(q),
    "covariance": lambda q, x: gm.covariance(q),
    "log_prob": gm.log_prob,
}
draw = jax.jit(gm.sample, static_argnums=2)
all_moments = jax.jit(partial(call_each, MOMENTS))
ROUNDING = dict(rtol=2e-6, atol=1e-6)


@jax.jit
def golden_moments(q, g, x):
    """Return what a golden file contains for one mixture and one Gaussian, under its names."""
    matched = gm.moment_match(q)
    powers = {
        name: gm.mean(gm.GaussianMixture(q.means, jax.nn.log_softmax(p * q.log_weights), q.log_std))
        for name, p in (("mean_power0p5", 0.5), ("mean_power2", 2.0))
    }
    return powers | {
        "mean": gm.mean(q),
        "iso_mean": matched.mean,
        "iso_var": matched.var,
        "full_cov": gm.covariance(q),
        "logprob": jnp.moveaxis(gm.log_prob(q, x), 0, 1),
        "iso_gaussian_logprob": jnp.moveaxis(gm.log_prob(g, x), 0, 1),
    }


def test_golden(golden, golden_mixture, precision):
    dtype, suffix, tolerance = precision
    x = np.moveaxis(golden["in_points"].astype(dtype), 1, 0)
    g = gm.Gaussian(*(golden[f"in_gauss_{k}"].astype(dtype) for k in ("mean", "pix_var")))
    # Only in their plain mean do the authors normalise the weights, which are stored as float32 and
    # therefore normalised to 1e-7.
    normalised = golden_moments(golden_mixture(golden, dtype), g, x)
    as_stored = golden_moments(golden_mixture(golden, dtype, normalise=False), g, x)
    for name in normalised:
        ours = (normalised if name == "mean" else as_stored)[name]
        assert relative_error(ours, golden[f"out_{name}{suffix}"]) < tolerance, name


def test_density_integrates_to_its_moments(x64, random_mixture):
    q = random_mixture(0, (), 4, 1, np.float64)
    x = np.linspace(-12, 12, 20001)
    moments = all_moments(q, x[:, None])
    density = np.exp(moments["log_prob"])
    mass, first, second = (np.trapezoid(density * x**n, x) for n in range(3))
    assert abs(mass - 1) < 1e-12
    assert abs(first - moments["mean"][0]) < 1e-12
    assert abs(second - first**2 - moments["covariance"][0, 0]) < 1e-12
    assert abs(second - first**2 - moments["moment_match"].var) < 1e-12


def test_samples_follow_the_density(random_mixture):
    """Moments within 4 standard errors; the first channel's distribution by Kolmogorov-Smirnov."""
    q, n = random_mixture(1, (2,), 3, 2), 50_000
    x = np.asarray(draw(jax.random.key(0), q, n), np.float64)
    moments = jax.tree.map(np.asarray, all_moments(q, np.zeros((2, 2))))
    centred = x - moments["mean"]
    outer = centred[..., :, None] * centred[..., None, :]
    for statistic, expected in ((centred, 0.0), (outer, moments["covariance"])):
        z = (statistic.mean(0) - expected) / (statistic.std(0) / np.sqrt(n))
        assert np.max(np.abs(z)) < 4.0
    means, log_weights, log_std = (np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(q))
    for i in range(2):
        channel = np.sort(x[:, i, 0])
        cdf = ndtr((channel[:, None] - means[i, :, 0]) / np.exp(log_std[i])) @ np.exp(log_weights[i])
        assert np.max(np.abs(cdf - (np.arange(n) + 0.5) / n)) < 1.95 / np.sqrt(n)  # p = 0.001


def test_sample_shapes_and_seeds(random_mixture):
    q, key = random_mixture(2, (2, 3), 4, 2), jax.random.key(5)
    g = gm.Gaussian(q.means[..., 0, :], jnp.asarray(0.5))
    assert jax.eval_shape(gm.sample, key, q).shape == jax.eval_shape(gm.sample, key, g).shape == (2, 3, 2)
    once, again, other = (np.asarray(draw(k, q, 7)) for k in (key, key, jax.random.key(6)))
    assert once.shape == (7, 2, 3, 2)
    np.testing.assert_array_equal(once, again)
    assert np.all(once != other) and len(np.unique(once)) == once.size


def test_kl_divergence_and_entropy(random_mixture):
    """For Gaussians within 4 standard errors of the closed form; exactly 0 from a mixture to itself."""
    entries, n, dim = 64, 512, 3
    ones = jnp.ones((entries, dim))
    p, q = gm.Gaussian(0.3 * ones, jnp.asarray(0.5)), gm.Gaussian(-0.2 * ones, jnp.asarray(0.9))

    @jax.jit
    def estimate(key, p, q, mixture):
        kl, entropy = gm.kl_divergence(key, p, q, n), gm.entropy(key, p, n)
        return kl, entropy, gm.kl_divergence(key, mixture, mixture)

    kl, entropy, nothing = estimate(jax.random.key(0), p, q, random_mixture(3, (entries,), 3, dim))
    distance = dim * 0.5**2
    exact_kl = 0.5 * (dim * 0.5 / 0.9 + distance / 0.9 - dim + dim * np.log(0.9 / 0.5))
    exact_entropy = 0.5 * dim * np.log(2 * np.pi * np.e * 0.5)
    for value, exact in ((kl, exact_kl), (entropy, exact_entropy)):
        value = np.asarray(value, np.float64)
        assert value.shape == (entries,)
        assert abs(value.mean() - exact) < 4 * value.std() / np.sqrt(entries)
    np.testing.assert_array_equal(nothing, np.zeros(entries))


@pytest.fixture
def case(random_mixture):
    """A batch of mixtures and points."""
    return random_mixture(5, (3, 2), 4, 3), jnp.asarray(np.random.default_rng(0).normal(size=(3, 2, 3)))


def test_eager_jitted_looped_and_vmapped_agree(case):
    batched = all_moments(*case)
    assert_trees_close(call_each(MOMENTS, *case), batched, **ROUNDING)
    for i in range(3):
        alone, of_batch = (jax.tree.map(lambda v, i=i: v[i], v) for v in (case, batched))
        assert_trees_close(all_moments(*alone), of_batch, **ROUNDING)
    assert_trees_close(jax.jit(jax.vmap(jax.vmap(all_moments)))(*case), batched, **ROUNDING)


def test_component_order_does_not_matter(case):
    q, x = case
    shuffled = permute_components(q, np.array([3, 0, 1, 2]))
    assert_trees_close(all_moments(shuffled, x), all_moments(q, x), **ROUNDING)


def test_bfloat16_is_computed_in_float32(case):
    assert_computes_bfloat16_in_float32(all_moments, case)


def test_extremes_are_finite(random_mixture, fast_compile):
    """Values and gradients, with a component of almost or exactly no weight."""
    log_std = np.repeat([-12.0, -6.0, 0.0, 4.0], 2)
    q = random_mixture(8, (8,), 2, 3, log_std=log_std)
    log_weights = np.tile([[0.0, np.log(1e-30)], [0.0, -np.inf]], (4, 1)).astype(np.float32)
    q = gm.GaussianMixture(q.means, jnp.asarray(log_weights), q.log_std)

    def totals(q, x):
        return jax.tree.map(jnp.sum, all_moments(q, x))

    value, gradient = jax.jit(lambda *a: (totals(*a), jax.jacrev(totals, (0, 1))(*a)))(q, jnp.ones((8, 3)))
    assert all_finite((value, gradient))


def test_point_masses_have_moments_samples_and_gradients(random_mixture):
    q = random_mixture(9, (2, 3), 4, 2, log_std=-np.inf)
    x = np.asarray(draw(jax.random.key(0), q, 7))
    distance = np.abs(x[..., None, :] - np.asarray(q.means)).max(-1).min(-1)
    assert np.max(distance) == 0

    def total(q):
        matched, x = gm.moment_match(q), gm.sample(jax.random.key(0), q)
        return jnp.sum(matched.mean) + jnp.sum(matched.var) + jnp.sum(gm.covariance(q)) + jnp.sum(x)

    value, gradient = jax.jit(jax.value_and_grad(total))(q)
    assert all_finite((value, gradient))


@pytest.mark.parametrize("name", MOMENTS)
def test_raw_logits_are_refused(name, random_mixture):
    q = random_mixture(10, (2,), 3, 2)
    logits = gm.GaussianMixture(q.means, q.log_weights + 1.0, q.log_std)
    with pytest.raises(ValueError) as error:
        MOMENTS[name](logits, jnp.ones((2, 2)))
    assert_message_names(error, "2.72", "log_softmax")


@pytest.mark.parametrize("shape", [(3,), (2, 4), (4, 2), (2,)])
def test_points_of_another_shape_are_refused(shape, random_mixture):
    with pytest.raises(ValueError) as error:
        gm.log_prob(random_mixture(11, (2,), 3, 3), jnp.ones(shape))
    assert_message_names(error, str(shape), "(2, 3)")


def test_zero_samples_are_refused(random_mixture):
    with pytest.raises(ValueError) as error:
        gm.sample(jax.random.key(0), random_mixture(12, (2,), 3, 3), 0)
    assert_message_names(error, "num_samples", "0")


def test_gradients_of_the_log_density_equal_differences(x64, random_mixture, fast_compile):
    """In float64, in forward and reverse mode, first and second order, with several points for each q."""
    q = random_mixture(21, (3,), 4, 2, np.float64)
    x = jnp.asarray(np.random.default_rng(22).normal(size=(5, 3, 2)))
    arguments = (q.means, q.log_weights, q.log_std, x)

    def total(means, log_weights, log_std, x):
        return jnp.sum(jnp.sin(gm.log_prob(gm.GaussianMixture(means, log_weights, log_std), x)))

    check_grads(jax.jit(total), arguments, order=2, modes=("fwd", "rev"), atol=1e-6, rtol=1e-6, eps=1e-6)
