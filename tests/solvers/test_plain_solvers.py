"""Euler, Adams-Bashforth and ancestral sampling: cases in which each is exact, and GM solvers with K = 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, solvers

POINT = np.array([0.7, -0.4])


def given_mean(x_0):
    """Return the denoiser of a plain flow model that predicts x_0(x_t, t)."""
    return flow.denoiser(lambda x, t: (x - x_0(x, t)) / t)


def test_euler_is_exact_for_constant_velocity(uncompiled, x64):
    u = jnp.asarray([0.3, -1.2])
    x_init = jax.random.normal(jax.random.key(0), (64, 2), jnp.float64)
    denoise = flow.denoiser(lambda x, t: jnp.broadcast_to(u, x.shape))
    x = solvers.sample(None, denoise, x_init, solvers.euler(), flow.time_grid(3, 2.0), True)
    expected = x_init[None] - (1 - flow.time_grid(3, 2.0))[:, None, None] * u.reshape(1, 1, 2)
    np.testing.assert_allclose(x, expected, atol=1e-15)


def test_ab2_is_exact_for_velocity_linear_in_time_after_its_first_step(uncompiled, x64):
    a, b = jnp.asarray([0.3, -1.2]), jnp.asarray([2.0, 0.5])
    x_init = jax.random.normal(jax.random.key(0), (64, 2), jnp.float64)
    denoise = flow.denoiser(lambda x, t: jnp.broadcast_to(a + b * t, x.shape))
    times = flow.time_grid(5, 3.0)
    x = np.asarray(solvers.sample(None, denoise, x_init, solvers.ab2(), times, True))
    t, a, b = np.asarray(times)[:, None], np.asarray(a), np.asarray(b)
    integral = t * a + 0.5 * t**2 * b
    after = np.broadcast_to((integral[1:] - integral[1])[:, None], x[1:].shape)
    np.testing.assert_allclose(x[1:] - x[1], after, atol=1e-14)
    # The first is Euler's.
    first = np.broadcast_to((t[1] - 1) * (a + b), x[0].shape)
    np.testing.assert_allclose(x[1] - x[0], first, atol=1e-14)


def second_moment_z(states, mean, var):
    """z-scores of mean and variance of [N, D] against a normal law of known mean and variance."""
    delta = np.asarray(states, np.float64) - mean
    n = len(delta)
    return np.concatenate(
        [
            delta.mean(0) / np.sqrt(var / n),
            (np.mean(delta**2, axis=0) - var) / (var * np.sqrt(2 / n)),
        ]
    )


def test_ddpm_small_is_exact_for_a_point(plane):
    x_init = jax.random.normal(jax.random.key(0), (40_000, 2))
    denoise = given_mean(lambda x, t: jnp.broadcast_to(jnp.asarray(POINT, x.dtype), x.shape))
    times = np.asarray(flow.time_grid(4, 2.0))
    x = solvers.sample(jax.random.key(1), denoise, x_init, solvers.ddpm("small"), times, True)
    for i in range(1, 4):
        assert np.abs(second_moment_z(x[i], (1 - times[i]) * POINT, times[i] ** 2)).max() < 4
    np.testing.assert_allclose(x[-1], np.broadcast_to(POINT, x[-1].shape), atol=2e-6)


def test_ddpm_large_is_exact_for_standard_normal_data():
    x_init = jax.random.normal(jax.random.key(0), (40_000, 2))
    denoise = given_mean(lambda x, t: x * (1 - t) / ((1 - t) ** 2 + t**2))
    times = np.asarray(flow.time_grid(4, 2.0))
    x = solvers.sample(jax.random.key(1), denoise, x_init, solvers.ddpm("large"), times, True)
    for i in range(1, 5):
        var = (1 - times[i]) ** 2 + times[i] ** 2
        assert np.abs(second_moment_z(x[i], 0, var)).max() < 4


@pytest.fixture
def plain(rippled):
    """A plain flow model: the mean velocity of a mixture network."""
    return flow.denoiser(lambda x, t: gm.mean(rippled.velocity(x, t)))


def test_gm_ode_of_a_plain_flow_is_euler(plain):
    x_init = jax.random.normal(jax.random.key(0), (64, 2))
    times = flow.time_grid(4)
    first = solvers.sample(None, plain, x_init, solvers.gm_ode(1, 1), times)
    np.testing.assert_allclose(
        first, solvers.sample(None, plain, x_init, solvers.euler(), times), atol=1e-6
    )


def with_std(rippled, std):
    """The plain flow as K = 1 with a given std of the velocity."""

    def velocity(x, t):
        mean = gm.mean(rippled.velocity(x, t))
        return gm.GaussianMixture(mean[..., None, :], jnp.zeros_like(mean[..., :1]), jnp.log(std(t)))

    return flow.denoiser(velocity)


def one_step(denoise, solver, x, t, s, component_noise=0.0, step_noise=0.0):
    draws = solvers.Draws(
        jnp.zeros(x.shape[:-1], jnp.int32),
        jnp.full_like(x, component_noise),
        jnp.full_like(x, step_noise),
    )
    return solver.step(draws, denoise, x, t, s, solver.init(denoise, x))[0]


GRID = [(1.0, 0.6), (0.6, 0.1), (0.3, 0.0)]


@pytest.mark.parametrize(("t", "s"), GRID)
def test_gm_sde_of_points_is_ddpm_small(rippled, plain, t, s, uncompiled, x64):
    x = jax.random.normal(jax.random.key(0), (64, 2), jnp.float64)
    t, s = jnp.asarray(t), jnp.asarray(s)
    points = with_std(rippled, jnp.zeros_like)
    found = one_step(points, solvers.gm_sde(1), x, t, s, component_noise=1.3, step_noise=0.7)
    expected = one_step(plain, solvers.ddpm("small"), x, t, s, step_noise=0.7)
    np.testing.assert_allclose(found, expected, atol=1e-14)


@pytest.mark.parametrize(("t", "s"), GRID)
def test_gm_sde_of_unit_data_variance_is_ddpm_large(rippled, plain, t, s, uncompiled, x64):
    # Two noises against one: equal means and equal total variance.
    x = jax.random.normal(jax.random.key(0), (64, 2), jnp.float64)
    t, s = jnp.asarray(t), jnp.asarray(s)
    unit = with_std(rippled, lambda t: 1 / jnp.sqrt((1 - t) ** 2 + t**2))
    sde, ddpm = solvers.gm_sde(1), solvers.ddpm("large")
    mean = one_step(unit, sde, x, t, s)
    np.testing.assert_allclose(mean, one_step(plain, ddpm, x, t, s), atol=1e-14)
    of_component = one_step(unit, sde, x, t, s, component_noise=1.0) - mean
    of_step = one_step(unit, sde, x, t, s, step_noise=1.0) - mean
    large = one_step(plain, ddpm, x, t, s, step_noise=1.0) - mean
    np.testing.assert_allclose(of_component**2 + of_step**2, large**2, rtol=1e-12)
