"""The posterior at another point (eq. 10): golden data, Bayes' rule, accuracy and limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm
from tests.helpers import all_finite, permute_components, relative_error

posterior = jax.jit(flow.posterior)


@jax.jit
def means_at_another_point(stored, x_t, t, x_s, s):
    """Return the means of our posterior, of q, and of q times the Gaussian of the authors' clamp at s = t."""
    # The stored weights are normalised to float32 only; the authors normalise them anew.
    log_weights = jax.nn.log_softmax(stored.log_weights, axis=-1)
    q_x0 = gm.GaussianMixture(stored.means, log_weights, stored.log_std)
    wide = gm.Gaussian(jnp.zeros_like(x_t), (t**4 / 1e-6)[:, None, None])
    return {
        kind: [gm.mean(p) for p in (flow.posterior(q, x_t, t, x_s, s), q, gm.multiply(q, wide))]
        for kind, q in (("x0", q_x0), ("u", flow.to_data(q_x0, x_t, t)))
    }


@pytest.mark.parametrize("file", ["flow_a.npz", "flow_b.npz"])
def test_golden(file, read, precision):
    dtype, suffix, tolerance = precision
    get = read(file, dtype)
    points = [np.asarray(get(f"cv_{k}")) for k in ("x_t_src", "sigma_src", "x_t_tgt", "sigma_tgt")]
    results = means_at_another_point(get("cv_", mixture=True), *points)
    for kind, values in results.items():
        ours, unmoved, clamped = map(np.asarray, values)
        theirs = np.asarray(get(f"cv_out_mean_pred_{kind}{suffix}"))
        assert relative_error(ours[1:], theirs[1:]) < tolerance
        # In the first entry s = t and x_s = x_t: nothing moves. There the authors clamp a vanishing
        # difference of signal-to-noise ratios at 1e-6 and multiply by a wide Gaussian that is not there.
        np.testing.assert_array_equal(points[0][0], points[2][0])
        assert relative_error(ours[0], unmoved[0]) < tolerance
        assert relative_error(clamped[0], theirs[0]) < tolerance


PAIRS = [(1.0, 0.5), (0.999, 0.001), (0.3, 0.3 - 1e-6), (0.3, 0.3), (1e-3, 1e-4), (1.0, 1e-5), (0.9, 0.8999)]


@pytest.mark.parametrize(("t", "s"), PAIRS)
def test_bayes_rule(x64, random_mixture, random_state, t, s, fast_compile):
    """log q(x_0 | x_s) - log q(x_0 | x_t) = log p(x_s | x_0) - log p(x_t | x_0) + constant."""
    x_t = random_state(1, 4, 2)
    q = flow.to_data(random_mixture(0, (4,), 3, 2, np.float64), x_t, t)
    x_s = x_t + np.sqrt(t - s) * t * random_state(2, 4, 2) if s < t else x_t + 0.1 * t
    ours = posterior(q, x_t, t, x_s, s)
    np.testing.assert_allclose(np.exp(np.asarray(ours.log_weights)).sum(-1), 1, rtol=1e-12)
    offsets = np.exp(np.asarray(ours.log_std))[:, None] * np.asarray(random_state(3, 32, 4, 2))
    x_0 = np.asarray(ours.means)[:, 1] + offsets
    log_prob = jax.jit(gm.log_prob)
    change = np.asarray(log_prob(ours, jnp.asarray(x_0))) - np.asarray(log_prob(q, jnp.asarray(x_0)))
    ends = ((np.asarray(x_s), s), (np.asarray(x_t), t))
    factors = [np.sum((x - (1 - r) * x_0) ** 2, axis=-1) / (2 * r**2) for x, r in ends]
    scale = max(1.0, max(np.max(np.abs(f)) for f in factors))
    # The factors themselves, here formed naively, lose digits to the size of x / s.
    naive = 1e-15 / s**2
    assert np.max(np.ptp(change - (factors[1] - factors[0]), axis=0)) < 1e-9 * scale + naive


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.5), (0.9, 0.1), (0.5, 0.499), (0.05, 0.01)])
def test_agrees_with_the_likelihood_of_known_data(x64, random_mixture, random_state, t, s, fast_compile):
    """For data that is a mixture, p(x_0 | x_s) is data times a Gaussian; the path to it is irrelevant."""
    data, x_t, x_s = random_mixture(4, (4,), 3, 2, np.float64), random_state(5, 4, 2), random_state(6, 4, 2)

    def law(x, r):
        # The tilt by p(x | x_0) as a function of x_0, which is also defined at r = 1.
        return gm.tilt(data, (1 - r) * x, (1 - r) ** 2, r**2)

    ours, expected = posterior(law(x_t, t), x_t, t, x_s, s), law(x_s, s)
    middle = 0.3 * t + 0.7 * s
    x_m = random_state(7, 4, 2)
    by_way = posterior(posterior(law(x_t, t), x_t, t, x_m, middle), x_m, middle, x_s, s)
    for result in (ours, by_way):
        for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def test_float32_is_accurate_everywhere(random_mixture):
    """Within 1e-5 relative of float64 for the same inputs; measured 4e-6. x_s lies on the path from x_t."""
    times = np.asarray([1, 0.999, 0.9, 0.5, 0.1, 0.01, 1e-3, 1e-4])
    fractions = np.asarray([0, 1e-4, 1e-2, 0.1, 0.5, 0.9, 0.999, 1 - 1e-6, 1])
    t, s = (v.ravel().astype(np.float32) for v in (np.repeat(times, 9), np.outer(times, fractions)))
    n = len(t)
    rng = np.random.default_rng(0)
    x_t = rng.normal(size=(n, 2)).astype(np.float32)
    log_std = rng.uniform(-10, 0.5, size=n)
    q = jax.jit(flow.to_data)(random_mixture(8, (n,), 4, 2, log_std=log_std), x_t, t)

    def run(dtype):
        arguments = jax.tree.map(lambda v: jnp.asarray(np.asarray(v), dtype), (q, x_t, t, x_s, s))
        result = posterior(*arguments)
        return [np.asarray(v, np.float64) for v in (result.means, result.log_weights, result.log_std)]

    on_path = jax.jit(flow.reverse_transition)(q, x_t, t, s)
    x_s = np.asarray(jax.jit(gm.sample)(jax.random.key(0), on_path))
    narrow = run(np.float32)
    with jax.enable_x64(True):
        wide = run(np.float64)
    for a, b, name in zip(narrow, wide, ("means", "log_weights", "log_std"), strict=True):
        point = np.isneginf(b)
        np.testing.assert_array_equal(np.isneginf(a), point)
        a, b = (np.where(point, 0, v) for v in (a, b))
        relative = np.abs(a - b) / np.maximum(1, np.abs(b))
        assert np.max(relative) < 1e-5, name


def test_the_posterior_at_the_same_point_is_the_prediction(random_mixture, random_state):
    u, x_t = random_mixture(9, (4,), 3, 2), random_state(10, 4, 2)
    for t in (1e-6, 1e-3, 0.5, 1.0):
        q = flow.to_data(u, x_t, t)
        result = posterior(q, x_t, t, x_t, t)
        np.testing.assert_allclose(result.means, q.means, rtol=0, atol=1e-6)
        np.testing.assert_allclose(result.log_weights, q.log_weights, rtol=0, atol=1e-5)
        np.testing.assert_array_equal(result.log_std, q.log_std)
    np.testing.assert_allclose(posterior(u, x_t, 0.0, x_t, 0.0).means, u.means, rtol=0, atol=1e-6)


def test_clean_data_is_a_point_mass(random_mixture, random_state, fast_compile):
    """At s = 0 the answer is x_s, with sample and gradients."""
    q, x_t, x_s = random_mixture(11, (4,), 3, 2), random_state(12, 4, 2), random_state(13, 4, 2)

    def total(q, x_t, x_s):
        result = flow.posterior(q, x_t, 0.7, x_s, 0.0)
        return jnp.sum(gm.mean(result)) + jnp.sum(gm.sample(jax.random.key(0), result)), result

    (_, result), gradient = jax.jit(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))(q, x_t, x_s)
    assert np.all(np.isneginf(result.log_std))
    np.testing.assert_allclose(result.means, np.broadcast_to(x_s[:, None], (4, 3, 2)), rtol=0, atol=1e-6)
    assert all_finite(gradient)
    np.testing.assert_allclose(gradient[2], 2 * np.ones((4, 2)), rtol=0, atol=1e-5)


def test_point_mass_predictions_do_not_move(random_mixture, random_state):
    q = random_mixture(14, (4,), 3, 2, log_std=-np.inf)
    x_t, x_s = random_state(15, 4, 2), random_state(16, 4, 2)
    result = posterior(q, x_t, 0.7, x_s, 0.3)
    np.testing.assert_allclose(result.means, q.means, rtol=0, atol=1e-6)
    assert np.all(np.isneginf(result.log_std))
    assert np.all(np.isfinite(result.log_weights))


def test_component_order_does_not_matter(random_mixture, random_state):
    q, x_t, x_s = random_mixture(17, (4,), 5, 2), random_state(18, 4, 2), random_state(19, 4, 2)
    order = np.array([3, 0, 4, 1, 2])
    a, b = (posterior(p, x_t, 0.7, x_s, 0.3) for p in (permute_components(q, order), q))
    np.testing.assert_allclose(a.means, b.means[:, order], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(a.log_weights, b.log_weights[:, order], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("num_components", [1, 3, 16, 19, 64])
def test_posterior_mean_equals_the_mean_of_the_posterior(
    x64, random_mixture, random_state, num_components, fast_compile
):
    """Also for point masses, components of weight 0, s = 0 and s = t, and in the gradient."""
    x_t, x_s = random_state(41, 4, 2), random_state(42, 4, 2)
    t, s = jnp.asarray([0.9, 0.5, 1e-3, 0.7]), jnp.asarray([0.2, 0.0, 1e-4, 0.7])
    q = random_mixture(40, (4,), num_components, 2, np.float64)
    if num_components > 1:
        log_weights = jax.nn.log_softmax(q.log_weights.at[:, 1].set(-jnp.inf), axis=-1)
        q = gm.GaussianMixture(q.means, log_weights, q.log_std.at[3].set(-jnp.inf))

    def value_and_gradient(function):
        def total(means, x_s):
            moved = function(gm.GaussianMixture(means, q.log_weights, q.log_std), x_t, t, x_s, s)
            return jnp.sum(jnp.sin(moved)), moved

        return jax.jit(jax.grad(total, argnums=(0, 1), has_aux=True))(q.means, x_s)

    found = value_and_gradient(flow.posterior_mean)
    expected = value_and_gradient(lambda *arguments: gm.mean(flow.posterior(*arguments)))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.isfinite(ours).all() and relative_error(ours, theirs) < 1e-11
