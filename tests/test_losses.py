"""Losses: closed forms, accuracy, limits (golden data: test_losses_golden.py)."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, losses
from tests.helpers import (
    assert_computes_bfloat16_in_float32,
    assert_trees_close,
    call_each,
    permute_components,
    relative_error,
)

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")

LOG_2PI = math.log(2 * math.pi)


def velocity_mixture(seed, n, num_components=3, dim=2, log_std=-1.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, num_components))
    log_weights = jnp.asarray(logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True)))
    means = jnp.asarray(rng.normal(size=(n, num_components, dim)))
    log_std = jnp.asarray(np.broadcast_to(log_std, n), means.dtype)
    return gm.GaussianMixture(means, log_weights, log_std)


def states(seed, n, t, s, dim=2):
    """(x_t, x_s) of random data and noise."""
    rng = np.random.default_rng(seed)
    x_0, noise_0, noise_1 = (jnp.asarray(rng.normal(size=(n, dim))) for _ in range(3))
    x_s = jax.jit(flow.interpolate)(x_0, noise_0, s)
    return jax.jit(flow.forward_transition)(x_s, noise_1, s, t), x_s


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.5), (0.6, 0.1), (0.3, 0.299), (0.2, 0.0)])
def test_transition_loss_is_the_likelihood_of_the_reverse_transition(x64, t, s):
    q, (x_t, x_s) = velocity_mixture(1, 5), states(2, 5, t, s)

    @jax.jit
    def by_way(q):
        return -gm.log_prob(flow.reverse_transition(flow.to_data(q, x_t, t), x_t, t, s), x_s)

    ours = jax.jit(losses.transition_loss)(q, x_t, x_s, t, s)
    np.testing.assert_allclose(ours, by_way(q), rtol=1e-9)


def test_transition_to_the_data_is_the_nll_of_the_velocity(x64):
    """Up to the change of variables x_0 = x_t - t u, whose log-volume is D log t."""
    t = jnp.asarray([1.0, 0.5, 0.02, 1e-3])
    q, (x_t, x_0) = velocity_mixture(3, 4), states(4, 4, t, 0.0)
    ours = jax.jit(losses.transition_loss)(q, x_t, x_0, t, 0.0)
    nll = jax.jit(losses.mixture_nll)(q, (x_t - x_0) / t[:, None])
    np.testing.assert_allclose(ours, nll + 2 * jnp.log(t), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.0])
def test_transition_loss_is_accurate_in_float32(ratio):
    """Value and gradient within 5e-6 of float64 for the same inputs, down to t = 1e-4.

    The spread is plausible, as a likelihood of 100 nats has large rounding errors at any t.
    """
    t = np.asarray([1e-4, 1e-3, 0.01, 0.1, 0.5, 1.0], np.float32)
    s = (t * np.float32(1 - ratio)).astype(np.float32)
    q, (x_t, x_s) = velocity_mixture(5, 6, log_std=0.3), states(6, 6, jnp.asarray(t), jnp.asarray(s))

    @jax.jit
    def both(q, x_t, x_s, t, s):
        def total(q):
            loss = losses.transition_loss(q, x_t, x_s, t, s)
            return jnp.sum(loss), loss

        (_, loss), gradient = jax.value_and_grad(total, has_aux=True)(q)
        return [loss, *jax.tree.leaves(gradient)]

    def run(dtype):
        inputs = jax.tree.map(lambda v: jnp.asarray(np.asarray(v), dtype), (q, x_t, x_s, t, s))
        return [np.asarray(v, np.float64) for v in both(*inputs)]

    narrow = run(np.float32)
    with jax.enable_x64(True):
        wide = run(np.float64)
    for a, b in zip(narrow, wide, strict=True):
        for i in range(len(t)):
            assert relative_error(a[i], b[i]) < 5e-6, t[i]


def test_one_unit_gaussian_is_the_l2_loss():
    rng = np.random.default_rng(7)
    velocity, x_0, noise = (jnp.asarray(rng.normal(size=(2, 3, 4)), jnp.float32) for _ in range(3))
    q = gm.GaussianMixture(velocity[..., None, :], jnp.zeros((2, 3, 1)), jnp.zeros(()))
    l2 = jax.jit(losses.flow_matching_loss)(velocity, x_0, noise)
    np.testing.assert_allclose(jax.jit(losses.mixture_nll)(q, noise - x_0), l2, rtol=1e-6)
    expected = 0.5 * np.sum((np.asarray(noise) - x_0 - velocity) ** 2, axis=-1) + 2 * LOG_2PI
    np.testing.assert_allclose(l2, expected, rtol=1e-6)
    # Its gradient is that of the half squared error, and log-weights have none.
    gradient = jax.jit(jax.grad(lambda q: jnp.sum(losses.mixture_nll(q, noise - x_0))))(q)
    np.testing.assert_allclose(gradient.means[..., 0, :], velocity - (noise - x_0), rtol=1e-5, atol=1e-6)


def test_log_weights_are_not_normalised():
    """Adding c to every log-weight lowers the loss by c, so a network must normalise its logits."""
    q, x = velocity_mixture(8, 4), jnp.ones((4, 2))
    raised = gm.GaussianMixture(q.means, q.log_weights + 0.5, q.log_std)
    nll = jax.jit(losses.mixture_nll)
    np.testing.assert_allclose(nll(raised, x), nll(q, x) - 0.5, rtol=1e-5)


def image_mixture(seed, *shape, num_components=3, dim=2):
    """A mixture over [*shape, dim] and points of it that are not far out."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(*shape, num_components))
    log_weights = jnp.asarray(logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True)))
    means, x = rng.normal(size=(*shape, num_components, dim)), rng.normal(size=(*shape, dim))
    return gm.GaussianMixture(jnp.asarray(means), log_weights, jnp.asarray(-0.3)), jnp.asarray(x)


def test_spectral_loss_makes_the_likelihood_of_a_correlated_gaussian(x64):
    """K = 1: together with -log q it is the density of a field whose covariance has this spectrum."""
    (q, x), std = image_mixture(15, 1, 3, 4, num_components=1), math.exp(-0.3)
    log_power = jnp.asarray(np.random.default_rng(16).normal(size=(1, 3, 4, 2)))
    ours = losses.mixture_nll(q, x) + jax.jit(losses.spectral_loss)(log_power, q, x)
    basis = jax.jit(flow.spectral_coefficients)(jnp.eye(12).reshape(12, 3, 4, 1)).reshape(12, 12)
    expected = 0.0
    for c in range(2):
        cov = std**2 * basis @ np.diag(np.exp(log_power[..., c]).ravel()) @ basis.T
        d = (x - q.means[..., 0, :])[..., c].ravel()
        expected += 0.5 * (d @ np.linalg.solve(cov, d) + np.linalg.slogdet(2 * np.pi * cov)[1])
    np.testing.assert_allclose(jnp.sum(ours), expected, rtol=1e-9)


def test_zero_log_power_gives_zero_loss_and_only_the_spectrum_has_gradients():
    q, x = image_mixture(17, 2, 3, 4)
    zeros = jnp.zeros_like(x)
    value, pull_back = jax.vjp(jax.jit(losses.spectral_loss), zeros, q, x)
    assert value.shape == (2, 3, 4)
    np.testing.assert_array_equal(value, 0.0)
    of_power, *others = pull_back(jnp.ones_like(value))
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(others))
    # d/dL is (1 - Z^2 exp(-L)) / 2, and Z has the length of z.
    z = jax.jit(gm.to_standard_normal)(q, x)
    np.testing.assert_allclose(jnp.sum(of_power), (z.size - jnp.sum(z**2)) / 2, rtol=1e-4)


FUNCTIONS = {
    "mixture_nll": lambda q, x_t, x_s, t, s: losses.mixture_nll(q, x_t),
    "transition_loss": lambda q, x_t, x_s, t, s: losses.transition_loss(q, x_t, x_s, t, s),
    "flow_matching_loss": lambda q, x_t, x_s, t, s: losses.flow_matching_loss(q.means[..., 0, :], x_s, x_t),
}
all_losses = jax.jit(partial(call_each, FUNCTIONS))
ROUNDING = dict(rtol=1e-5, atol=1e-5)


@pytest.fixture
def case():
    t, s = jnp.asarray([1.0, 0.5, 0.02]), jnp.asarray([0.7, 0.0, 0.01])
    return velocity_mixture(9, 3), *states(10, 3, t, s), t, s


def test_eager_jitted_looped_and_vmapped_agree(case):
    batched = all_losses(*case)
    assert all(value.shape == (3,) for value in batched.values())
    assert_trees_close(call_each(FUNCTIONS, *case), batched, **ROUNDING)
    for i in range(3):
        # A time that all samples share is a scalar.
        *alone, t, s = jax.tree.map(lambda v, i=i: v[i : i + 1], case)
        of_batch = jax.tree.map(lambda v, i=i: v[i : i + 1], batched)
        assert_trees_close(all_losses(*alone, t[0], s[0]), of_batch, **ROUNDING)
    assert_trees_close(jax.jit(jax.vmap(all_losses))(*case), batched, **ROUNDING)


def test_component_order_does_not_matter(case):
    q, *others = case
    order = np.array([0, 2, 1])  # the first stands for the velocity of the L2 loss
    shuffled = permute_components(q, order)
    assert_trees_close(all_losses(shuffled, *others), all_losses(*case), **ROUNDING)


def test_bfloat16_is_computed_in_float32(case):
    assert_computes_bfloat16_in_float32(all_losses, case, **ROUNDING)


def test_extremes_are_finite():
    """Values and gradients over times x spreads x weights of almost and exactly 0."""
    t = np.asarray([0, 1e-6, 1e-6, 1e-6, 1 - 1e-6, 1 - 1e-6, 1 - 1e-6, 1, 1, 1], np.float32)
    s = np.asarray([0, 0, 0.5, 1 - 1e-6, 0, 0.5, 1 - 1e-6, 0, 0.5, 1 - 1e-6], np.float32) * t
    log_std = np.asarray([-12.0, -6.0, 0.0, 4.0], np.float32)
    n = 8 * len(t)
    t, s, log_std = np.repeat(t, 8), np.repeat(s, 8), np.tile(np.repeat(log_std, 2), len(t))
    weights = np.asarray([[0.0, np.log(1e-30), np.log(1e-30)], [0.0, -np.inf, np.log(1e-30)]], np.float32)
    q = velocity_mixture(13, n, log_std=log_std)
    q = gm.GaussianMixture(q.means, jnp.asarray(np.tile(weights, (n // 2, 1))), q.log_std)
    arguments = (q, *states(14, n, jnp.asarray(t), jnp.asarray(s)), jnp.asarray(t), jnp.asarray(s))

    @jax.jit
    def both(*arguments):
        value, pull_back = jax.vjp(all_losses, *arguments)
        ones = jnp.ones(n)
        seeds = [{other: ones if other == name else 0 * ones for other in FUNCTIONS} for name in FUNCTIONS]
        return value, [pull_back(seed) for seed in seeds]

    for leaf in jax.tree.leaves(both(*arguments)):
        bad = ~np.isfinite(np.asarray(leaf)).reshape(n, -1).all(-1)
        assert not bad.any(), np.stack([t, s, log_std], axis=1)[bad]


Q = gm.GaussianMixture(np.zeros((2, 3, 4)), np.full((2, 3), -np.log(3.0)), np.zeros(2))
X = np.ones((2, 4))
REFUSED = {
    "x without batch": (lambda: losses.mixture_nll(Q, np.ones(4)), ("(4,)", "(2, 3, 4)")),
    "x with components": (lambda: losses.mixture_nll(Q, np.ones((2, 3, 4))), ("(2, 3, 4)",)),
    "channels": (lambda: losses.mixture_nll(Q, np.ones((2, 5))), ("(2, 5)", "(2, 4)")),
    "s = t": (lambda: losses.transition_loss(Q, X, X, 0.5, 0.5), ("s = 0.5", "t = 0.5")),
    "x_s": (lambda: losses.transition_loss(Q, X, np.ones((2, 5)), 0.5, 0.1), ("x_s (2, 5)", "x_t (2, 4)")),
    "t": (lambda: losses.transition_loss(Q, X, X, np.full((2, 1), 0.5), 0.1), ("t has shape (2, 1)",)),
    "s": (lambda: losses.transition_loss(Q, X, X, 0.5, np.full(3, 0.1)), ("s has shape (3,)",)),
    "log_power": (
        lambda: losses.spectral_loss(np.ones((2, 1, 4)), Q, X), ("log_power (2, 1, 4)", "x_0 (2, 4)")
    ),
    "no image": (lambda: jax.eval_shape(losses.spectral_loss, X, Q, X), ("(2, 4)", "[..., H, W, D]")),
    "velocity": (lambda: losses.flow_matching_loss(X[:1], X, X), ("velocity (1, 4)", "x_0 (2, 4)")),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused(name):
    call, given = REFUSED[name]
    with pytest.raises(ValueError, match=r"\.$") as error:
        call()
    assert all(word in str(error.value) for word in given), error.value
