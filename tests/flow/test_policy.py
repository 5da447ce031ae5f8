"""The policy of a mixture: its velocity and the path along it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, losses
from tests.helpers import all_finite, assert_computes_bfloat16_in_float32, assert_message_names

pytestmark = pytest.mark.usefixtures("fast_compile")


def data_mixture():
    """Three components in two channels."""
    means = jnp.asarray([[1.5, 0.2], [-0.8, 1.1], [-0.6, -1.4]])
    return gm.GaussianMixture(means, jnp.log(jnp.asarray([0.5, 0.3, 0.2])), jnp.log(jnp.asarray(0.25)))


def exact_posterior(x, t):
    """The distribution of x_0 given x_t for data that are `data_mixture`, by Bayes' rule in float64."""
    p = jax.tree.map(np.float64, data_mixture())
    x, t = np.float64(x), np.float64(t)[:, None]
    var, alpha = np.exp(2 * p.log_std), 1 - t
    spread = t**2 + alpha**2 * var
    logits = p.log_weights - np.sum((x[:, None] - alpha[..., None] * p.means) ** 2, -1) / (2 * spread)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    means = (alpha[..., None] * var * x[:, None] + t[..., None] ** 2 * p.means) / spread[..., None]
    return weights, means, t[:, 0] ** 2 * var / spread[:, 0]


def exact_mixture(x, t):
    weights, means, var = exact_posterior(x, t)
    return gm.GaussianMixture(
        jnp.asarray(means, jnp.float32), jnp.asarray(np.log(weights), jnp.float32),
        jnp.asarray(0.5 * np.log(var), jnp.float32),
    )


def test_the_policy_of_an_exact_prediction_is_the_exact_velocity():
    """Wherever the prediction was made, and so for any number of calls."""
    x_s, x = jax.random.normal(jax.random.key(0), (2, 64, 2))
    s, t = jnp.linspace(0.2, 1, 64), jnp.linspace(0.2, 1, 64) * jnp.linspace(1, 0.1, 64)
    weights, means, _ = exact_posterior(x, t)
    velocity = (np.float64(x) - np.sum(weights[..., None] * means, 1)) / np.float64(t)[:, None]
    found = flow.policy_velocity(exact_mixture(x_s, s), x_s, s, x, t)
    np.testing.assert_allclose(found, velocity, atol=2e-5)  # measured: 5e-6
    loss = losses.policy_loss(exact_mixture(x_s, s), x_s, s, x, t, jnp.asarray(velocity, jnp.float32))
    assert loss.shape == (64,)
    assert loss.max() < 1e-9  # measured: 3e-11


def test_the_loss_is_half_the_squared_difference(random_mixture):
    q, (x_s, x, u) = random_mixture(0, (3, 2), 4, 2), jax.random.normal(jax.random.key(0), (3, 3, 2, 2))
    s, t = np.float32([1.0, 0.7, 0.5]), np.float32([0.5, 0.7, 0.1])
    implied = np.float64(x - flow.posterior_mean(q, x_s, s, x, t)) / t[:, None, None]
    expected = 0.5 * np.sum((u - implied) ** 2, -1)
    np.testing.assert_allclose(losses.policy_loss(q, x_s, s, x, t, u), expected, rtol=1e-4)


def test_a_path_with_times_for_each_sample_is_the_path_of_each(random_mixture):
    q, x = random_mixture(1, (5, 2), 3, 2), jax.random.normal(jax.random.key(0), (5, 2, 2))
    s, t = jnp.full(5, 0.9), jnp.asarray([0.9, 0.8, 0.5, 0.3, 0.9])
    end = jnp.asarray([0.9, 0.1, 0.5, 0.0, 0.0])
    follow = jax.jit(lambda *a: flow.follow_policy(*a, 4, 1.3, "midpoint"))
    together = follow(q, x, s, 0.9 * x, t, end)
    for i in range(5):
        one = [jax.tree.map(lambda a, i=i: a[i : i + 1], a) for a in (q, x, s, 0.9 * x, t, end)]
        np.testing.assert_allclose(follow(*one)[0], together[i], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(together[0], 0.9 * x[0])  # end = t
    np.testing.assert_array_equal(together[2], 0.9 * x[2])


def test_a_path_may_pause(random_mixture):
    """Euler sub-steps to one time and on to another are those of a single path with these steps."""
    q, x = random_mixture(1, (5,), 3, 2), jax.random.normal(jax.random.key(0), (5, 2))
    half = flow.follow_policy(q, x, 1.0, x, 1.0, 0.6, 2)
    on = flow.follow_policy(q, x, 1.0, half, 0.6, 0.2, 2)
    np.testing.assert_allclose(on, flow.follow_policy(q, x, 1.0, x, 1.0, 0.2, 4), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("log_std", [None, -np.inf])
def test_values_and_gradients_are_finite_at_the_borders(random_mixture, log_std):
    q, x = random_mixture(2, (6,), 3, 2, log_std=log_std), jax.random.normal(jax.random.key(0), (6, 2))
    s, t = jnp.asarray([1.0, 1.0, 1.0, 1e-4, 1e-4, 0.0]), jnp.asarray([1.0, 0.0, 1e-4, 1e-4, 0.0, 0.0])

    @jax.jit
    def value(means, x):
        moved = gm.GaussianMixture(means, q.log_weights, q.log_std)
        loss = losses.policy_loss(moved, x, s, 1.1 * x, t, x)
        return jnp.sum(loss) + jnp.sum(flow.follow_policy(moved, x, s, x, s, t, 3))

    assert all_finite((value(q.means, x), jax.grad(value, (0, 1))(q.means, x)))


def test_arguments_of_other_types_are_promoted(random_mixture):
    """Also times that are equal only in float32, a Gaussian, and points without batch axes."""
    q, x = random_mixture(0, (3,), 2, 2), jnp.ones((3, 2))
    found = flow.policy_velocity(q, x, jnp.float32(0.7), 0.5 * x, 0.7)
    np.testing.assert_array_equal(found, flow.policy_velocity(q, x, 0.7, 0.5 * x, np.float64(0.7)))
    assert_computes_bfloat16_in_float32(lambda q, x: flow.policy_velocity(q, x, 0.7, 2 * x, 0.2), (q, x))
    one = flow.follow_policy(jax.tree.map(lambda a: a[0], q), x[0], 0.9, x[0], 0.8, 0.1, 3)
    scalars = flow.follow_policy(q, x, 0.9, x, 0.8, 0.1, 3)
    mixed = flow.follow_policy(q, x, 0.9, x, jnp.full(3, 0.8), 0.1, 3)
    np.testing.assert_allclose(one, scalars[0], rtol=1e-5)
    np.testing.assert_allclose(mixed, scalars, rtol=1e-5)
    point = flow.policy_velocity(gm.Gaussian(x, jnp.zeros(3)), x, 0.9, 3 * x, 0.5)
    np.testing.assert_allclose(point, 4.0, rtol=1e-6)  # (3 - 1) / 0.5


def test_times_and_shapes_that_do_not_fit_are_refused(random_mixture):
    q, x = random_mixture(0, (3,), 2, 2), jnp.zeros((3, 2))
    with pytest.raises(ValueError) as error:
        flow.policy_velocity(q, x, 0.5, x, 0.6)
    assert_message_names(error, "t = 0.6", "s = 0.5")
    with pytest.raises(ValueError) as error:
        flow.follow_policy(q, x, 0.5, x, 0.4, 0.45, 3)
    assert_message_names(error, "end = 0.45", "t = 0.4")
    with pytest.raises(ValueError, match="must have the same shape"):
        flow.policy_velocity(q, x, 0.5, x[:, :1], 0.4)
    with pytest.raises(ValueError, match="same batch axes and channels"):
        flow.policy_velocity(q, x[:2], 0.5, x[:2], 0.4)
    for number in (0, 2.5, "3", None):
        with pytest.raises(ValueError, match=r"num_substeps must be at least 1, but .* Give a whole number"):
            flow.follow_policy(q, x, 0.5, x, 0.4, 0.1, number)
    with pytest.raises(ValueError, match=r"t has shape \(2,\), .* Pass a scalar or shape \(3,\)"):
        flow.policy_velocity(q, x, jnp.full(3, 0.5), x, jnp.full(2, 0.4))
    for shift in (np.inf, "1"):
        with pytest.raises(ValueError, match=f"shift must be positive, but {shift}"):
            flow.follow_policy(q, x, 0.5, x, 0.4, 0.1, 2, shift)
    with pytest.raises(ValueError, match="must have the same shape"):
        losses.policy_loss(q, x, 0.5, x, 0.4, x[:, :1])
