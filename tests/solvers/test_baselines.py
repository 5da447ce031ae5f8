"""Heun, DPM-Solver++ and UniPC: cases in which each is exact, orders of convergence, times 1 and 0."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, solvers
from tests.helpers import all_finite

POINT = np.array([0.7, -0.4])
UNEVEN = np.array([1.0, 0.93, 0.9, 0.5, 0.42, 0.1, 0.0])
ODE = {"heun": solvers.heun, "dpmpp_2m": solvers.dpmpp_2m, "unipc": solvers.unipc}
ALL = ODE | {"dpmpp_2m_sde": solvers.dpmpp_2m_sde}


def given_mean(x_0):
    """Return the denoiser of a plain flow model that predicts x_0(x_t, t)."""

    def denoise(x, t):
        mean = jnp.broadcast_to(jnp.asarray(x_0(x, t), x.dtype), x.shape)
        return gm.GaussianMixture(mean[..., None, :], jnp.zeros_like(mean[..., :1]), jnp.zeros((), x.dtype))

    return denoise


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def draws(*shape, seed=1):
    return solvers.Draws(step_noise=normal(*shape, seed=seed))


# Exactness.


@pytest.mark.parametrize("name", ODE)
def test_exact_for_a_constant_prediction_on_any_grid(name, uncompiled, x64):
    x_init = normal(16, 2)
    x = solvers.sample(None, given_mean(lambda x, t: POINT.reshape(1, 2)), x_init, ODE[name](), UNEVEN, True)
    t = UNEVEN[:, None, None]
    np.testing.assert_allclose(x, t * np.asarray(x_init) + (1 - t) * POINT, atol=3e-16)


def test_sde_is_exact_in_distribution_for_a_point(uncompiled, x64):
    n = 40_000
    key, denoise = draws(len(UNEVEN) - 1, n, 2), given_mean(lambda x, t: POINT.reshape(1, 2))
    states = solvers.sample(key, denoise, normal(n, 2), solvers.dpmpp_2m_sde(), UNEVEN, True)
    for t, x in zip(UNEVEN[1:-1], np.asarray(states)[1:-1], strict=True):
        delta = (x - (1 - t) * POINT) / t
        z = np.stack([delta.mean(0) * np.sqrt(n), (np.mean(delta**2, axis=0) - 1) / np.sqrt(2 / n)])
        assert np.abs(z).max() < 4
    np.testing.assert_allclose(states[-1], np.broadcast_to(POINT, (n, 2)), atol=1e-15)


def test_heun_is_exact_for_velocity_linear_in_time_but_in_the_last_step(uncompiled, x64):
    a, b = np.array([[0.3, -1.2]]), np.array([[2.0, 0.5]])
    x_init = normal(16, 2)
    denoise = flow.denoiser(lambda x, t: jnp.broadcast_to(a + b * t, x.shape))
    x = solvers.sample(None, denoise, x_init, solvers.heun(), UNEVEN, True)
    t = UNEVEN[:, None, None]
    exact = np.asarray(x_init) - (1 - t) * a - 0.5 * (1 - t**2) * b
    np.testing.assert_allclose(x[:-1], exact[:-1], atol=1e-15)
    # The last is Euler's: the velocity at its start.
    np.testing.assert_allclose(x[-1] - x[-2], np.broadcast_to(-0.1 * (a + 0.1 * b), (16, 2)), atol=1e-15)


def test_unipc_corrects_a_prediction_quadratic_in_log_snr_exactly(uncompiled, x64):
    def prediction(t):
        log_snr = np.log((1 - t) / t) if isinstance(t, np.ndarray) else jnp.log((1 - t) / t)
        return 0.7 - 0.5 * log_snr + 0.3 * log_snr**2

    def corrected(times):
        # A last step of length 0 returns its start, which is the corrected state.
        times = jnp.asarray([*times, times[-1] - 1e-11])
        denoise = given_mean(lambda x, t: prediction(t))
        return np.asarray(solvers.sample(None, denoise, jnp.ones((1, 1)), solvers.unipc(), times))

    times = [0.8, 0.7, 0.45, 0.2]
    start, end = corrected(times[:-1]), corrected(times)
    # x_s / s - x_t / t is the integral of prediction(tau) / tau^2 from s to t (eq. 2).
    nodes, weights = np.polynomial.legendre.leggauss(40)
    t, s = times[-2:]
    tau = 0.5 * (t + s) + 0.5 * (t - s) * nodes
    integral = 0.5 * (t - s) * np.sum(weights * prediction(tau) / tau**2)
    np.testing.assert_allclose(end / s - start / t, [[integral]], rtol=1e-9)


# Steps of order 1.


@pytest.mark.parametrize("s", [0.6, 0.0])
@pytest.mark.parametrize(
    ("name", "first"), [("dpmpp_2m", "euler"), ("unipc", "euler"), ("dpmpp_2m_sde", "ddpm")]
)
def test_the_first_step_is_of_order_1(rippled, name, first, s, uncompiled, x64):
    denoise, x_init, times = rippled.denoiser(), normal(8, 2), jnp.asarray([1.0, s])
    found = solvers.sample(draws(1, 8, 2), denoise, x_init, ALL[name](), times)
    expected = solvers.sample(draws(1, 8, 2), denoise, x_init, getattr(solvers, first)(), times)
    np.testing.assert_allclose(found, expected, atol=1e-15)


@pytest.mark.parametrize("name", ALL)
def test_a_step_to_0_ends_in_the_prediction(rippled, name, uncompiled, x64):
    denoise, times = rippled.denoiser(), jnp.asarray([1.0, 0.6, 0.3, 0.0])
    x = solvers.sample(draws(3, 8, 2), denoise, normal(8, 2), ALL[name](), times, True)
    np.testing.assert_allclose(x[-1], gm.mean(denoise(x[-2], times[-2])), atol=1e-15)


def test_heun_does_not_call_the_network_at_0():
    denoise = given_mean(lambda x, t: jnp.where(t > 0, x * (1 - t), jnp.nan))
    x = solvers.sample(None, denoise, jnp.ones((1, 2)), solvers.heun(), flow.time_grid(2))
    assert np.all(np.isfinite(x))


# Orders of convergence.


def grids(num_steps, start, end):
    """Return a uniform grid, one with shift 3, and one whose steps have the lengths 1 and 2 alternately."""
    turns = np.cumsum([0, *np.tile([1, 2], num_steps // 2)])
    uniform, turns = (start + (end - start) * u / u[-1] for u in (np.arange(num_steps + 1), turns))
    u = np.linspace(start / (3 - 2 * start), end / (3 - 2 * end), num_steps + 1)
    shifted = 3 * u / (1 + 2 * u)
    shifted[[0, -1]] = start, end  # not a rounding beyond them
    return np.stack([uniform, shifted, turns])


def gaussian_flow(exact, x, t, s):
    """The flow for Gaussian data, which keeps the scaled residual."""
    std_t, std_s = (np.sqrt((1 - v) ** 2 * exact.std**2 + v**2) for v in (t, s))
    return (1 - s) * exact.means[:1] + std_s / std_t * (x - (1 - t) * exact.means[:1])


def mixture_flow(exact, x, t, s, num_steps=1000):
    """Runge-Kutta 4: error 1e-10."""
    h = (s - t) / num_steps

    def step(i, x):
        def velocity(x, tau):
            return gm.mean(exact.velocity(x, tau))

        tau = t + i * h
        k1 = velocity(x, tau)
        k2 = velocity(x + h / 2 * k1, tau + h / 2)
        k3 = velocity(x + h / 2 * k2, tau + h / 2)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + velocity(x + h * k3, tau + h))

    return jax.lax.fori_loop(0, num_steps, step, x)


@pytest.fixture(scope="module")
def intervals(plane):
    """(network, start, end, steps, starting points, true endpoints): a mixture, then a Gaussian twice."""
    # Four equal components are one Gaussian of the mixture's shapes, so that one program serves both.
    bell = type(plane)([[0.7, -0.4]] * 4, [0.25] * 4, 0.5)
    x = np.random.default_rng(0).normal(size=(64, 2))
    with jax.enable_x64(True):
        mixture = np.asarray(mixture_flow(plane, jnp.asarray(x), 0.9, 0.1))
    return [
        (plane, 0.9, 0.1, 64, x, mixture),
        (bell, 1.0, 0.1, 128, x, gaussian_flow(bell, x, 1.0, 0.1)),
        (bell, 1.0, 0.0, 256, x, gaussian_flow(bell, x, 1.0, 0.0)),
    ]


def slopes(exact, solver, intervals):
    """log2 of the ratio of errors when the number of steps doubles, [3 intervals, 3 grids]."""
    longest = 2 * max(interval[3] for interval in intervals) + 1

    @jax.jit
    def run(params, x_init, times, num_steps):
        denoise = exact.denoiser(params)

        def one(times):
            def step(i, carry):
                return solver.step(None, denoise, carry[0], times[i], times[i + 1], carry[1])

            return jax.lax.fori_loop(0, num_steps, step, (x_init, solver.init(denoise, x_init)))[0]

        return jax.vmap(one)(times)

    def error(network, start, end, num_steps, x_init, expected):
        times = np.pad(grids(num_steps, start, end), ((0, 0), (0, longest - num_steps - 1)))
        found = np.asarray(run(network.params, jnp.asarray(x_init), jnp.asarray(times), num_steps))
        return np.sqrt(np.mean((found - expected) ** 2, axis=(1, 2)))

    pairs = [
        (error(network, a, b, n, *points), error(network, a, b, 2 * n, *points))
        for network, a, b, n, *points in intervals
    ]
    return np.stack([np.log2(coarse / fine) for coarse, fine in pairs])


# Measured for the uniform grid, shift 3, and steps in turns: from 0.9 to 0.1 (64 steps), 1 to 0.1 (128).
#   euler     0.99 1.00 0.99   1.00 0.99 1.00
#   ab2       1.98 2.01 1.98   2.01 2.10 2.01
#   heun      1.98 1.96 1.98   1.99 1.94 1.99
#   dpmpp_2m  1.96 2.00 1.97   2.05 2.00 2.06
#   unipc     2.91 2.77 2.86   2.93 2.88 2.88
# and from 1 to 0 (256): 1.00, 2.01, 2.01, 1.81, 2.06 for the uniform grid. The last step, of order 1 for
# these two, leaves UniPC order 2, and DPM-Solver++ gets there slowly.
@pytest.mark.parametrize(
    ("name", "order"), [("euler", 1), ("ab2", 2), ("heun", 2), ("dpmpp_2m", 2), ("unipc", 3)]
)
def test_order_of_convergence(plane, intervals, name, order, fast_compile, x64):
    found = slopes(plane, getattr(solvers, name)(), intervals)
    assert np.all(np.abs(found[:2] - order) < 0.25), found
    assert abs(found[2, 0] - min(order, 2)) < 0.25, found


# Times 1 and 0, transformations.

NEAR_THE_ENDS = (1.0, 1 - 1e-6, 1 - 1e-4, 0.9, 0.5, 0.1, 1e-3, 1e-6, 0.0)


@pytest.mark.parametrize("name", ALL)
def test_values_and_gradients_are_finite(rippled, name, fast_compile):
    solver, z = ALL[name](), jnp.asarray(normal(4, 2), jnp.float32)

    @jax.jit
    def step(params, x, t, s, state):
        return solver.step(solvers.Draws(step_noise=z), rippled.denoiser(params), x, t, s, state)

    def loss(x, params, times):
        # A Python loop over one compiled step serves all lengths.
        state = solver.init(rippled.denoiser(params), x)
        for t, s in itertools.pairwise(times):
            x, state = step(params, x, t, s, state)
        return jnp.sum(jnp.square(x))

    run = jax.value_and_grad(loss, argnums=(0, 1, 2))
    x_init = jnp.asarray(normal(4, 2, seed=5), jnp.float32)
    for times in (*(flow.time_grid(n) for n in (1, 2, 8)), NEAR_THE_ENDS):
        found = run(x_init, rippled.params, [jnp.asarray(t, jnp.float32) for t in times])
        assert all_finite(found), (times, found)


def pixels(rippled):
    """A network for [B, H, W, 2] whose t may be [B]."""

    def denoise(x, t):
        return jax.vmap(rippled.denoiser())(x, jnp.broadcast_to(t, x.shape[:1]))

    return denoise


# test_directions.py has a quicker test of the costly ones.
COSTLY = ("heun", "dpmpp_2m", "dpmpp_2m_sde", "unipc")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in COSTLY)) for n in ALL])
def test_times_may_differ_within_a_batch(rippled, name, loops, x64):
    # A compiled scan of the batch against a Python loop for each sample, without jit.
    times = jnp.asarray([UNEVEN[:5], UNEVEN[:5] ** 2, np.linspace(1, 0, 5)])
    x_init, noise, solver = normal(3, 2, 2, 2), normal(4, 3, 2, 2, 2, seed=1), ALL[name]()
    denoise = pixels(rippled)

    @jax.jit
    def together():
        def body(carry, inputs):
            t, s, z = inputs
            return solver.step(solvers.Draws(step_noise=z), denoise, carry[0], t, s, carry[1]), None

        start = x_init, solver.init(denoise, x_init)
        return jax.lax.scan(body, start, (times.T[:-1], times.T[1:], noise))[0][0]

    found = together()
    with loops():
        for i in range(3):
            key = solvers.Draws(step_noise=noise[:, i])
            alone = solvers.sample(key, rippled.denoiser(), x_init[i], solver, times[i])
            np.testing.assert_allclose(found[i], alone, atol=1e-13)
