"""Solvers with an observation: GM-SDE samples the exact posterior, and known pixels come out as given."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, guidance, solvers
from tests.helpers import all_finite, z_scores

NUM_SAMPLES = 100_000
Y = np.array([-0.5, -0.2])
GRID = flow.time_grid(2)
slow = pytest.mark.slow
SOLVERS = {name: solvers.by_name(name, num_substeps=2) for name in solvers.NAMES if name != "ddpm_large"} | {
    "gm_ode 1": solvers.gm_ode(1, 2),
    "gm_sde 1": solvers.gm_sde(1),
    "gm_ode, correction": solvers.gm_ode(2, 2, correction_steps=1),
    "gm_ode, few steps": solvers.gm_ode(1, 2, temperature=0.5, renoise=0.5),
    "gm_sde, spectrum": solvers.gm_sde(spectrum=lambda surrogate: 0.1 * surrogate.mean),
}
QUICK = ("euler", "unipc", "gm_ode", "gm_sde", "gm_ode 1", "ddpm")


def posterior(data, y, var):
    """p(x_0 | y) of data that is a mixture, in numpy."""
    total, v = data.std**2 + var, data.std**2
    logits = np.log(data.weights) - np.sum((data.means - y) ** 2, axis=-1) / (2 * total)
    weights = np.exp(logits - logits.max())
    means = (v * y + var * data.means) / total
    return type(data)(means, weights / weights.sum(), np.sqrt(v * var / total))


def scores(law, x):
    """z-scores in units of the law's own width, so that they see a variance of 1e-6 as well as one of 1e3."""
    center = law.weights @ law.means
    width = np.sqrt(law.weights @ np.mean((law.means - center) ** 2, axis=-1) + law.std**2)
    unit = type(law)((law.means - center) / width, law.weights, law.std / width)
    return np.abs(z_scores(unit, (np.asarray(x, np.float64) - center) / width))


@functools.partial(jax.jit, static_argnames=("data", "num_steps", "order"))
def samples(data, key, y, var, num_steps, order=1):
    noise_key, key = jax.random.split(key)
    noise = jax.random.normal(noise_key, (NUM_SAMPLES, 2))
    denoise = guidance.observe(data.denoiser(), jnp.broadcast_to(y, noise.shape), var)
    return solvers.sample(key, denoise, noise, solvers.gm_sde(order), flow.time_grid(num_steps))


@pytest.mark.parametrize(
    ("num_steps", "order"), [(1, 1), pytest.param(2, 1, marks=slow), (4, 1), pytest.param(4, 2, marks=slow)]
)
def test_gm_sde_samples_the_exact_posterior(plane, num_steps, order, fast_compile):
    for i, var in enumerate((1e-6, 1e-3, 0.1, 1.0, 1e3)):
        law = posterior(plane, Y, var)
        assert np.sum(law.weights > 0.01) > 1
        x = samples(plane, jax.random.key(i), jnp.asarray(Y, jnp.float32), var, num_steps, order)
        assert scores(law, x).max() < 4, (var, scores(law, x))  # measured: at most 2.3


def test_the_scores_detect_another_observation(plane, fast_compile):
    """One that is off by 0.02, where the noise has a standard deviation of 0.3."""
    x = samples(plane, jax.random.key(0), jnp.asarray(Y + 0.02, jnp.float32), 0.1, 1)
    assert scores(posterior(plane, Y, 0.1), x).max() > 6


@pytest.fixture(scope="module")
def pictures():
    """x and y, [B, H, W, D], and variances of every kind."""
    rng = np.random.default_rng(0)
    x, y = (jnp.asarray(rng.normal(size=(4, 2, 3, 2)), jnp.float32) for _ in range(2))
    return x, y, np.broadcast_to(np.float32([[0, np.inf, 1e-3], [1e3, 1e-6, 0.5]]), x.shape[:-1])


@pytest.mark.parametrize("name", [pytest.param(n, marks=[slow] * (n not in QUICK)) for n in SOLVERS])
def test_known_pixels_come_out_and_unknown_ones_may_be_nan(name, pictures, guided, uncompiled):
    x, y, var = pictures
    y = jnp.where(np.isinf(var)[..., None], jnp.nan, y)
    denoise = guidance.observe(guided(0.4), y, var)
    x_0 = solvers.sample(jax.random.key(0), denoise, x, SOLVERS[name], flow.time_grid(2))
    np.testing.assert_allclose(x_0[var == 0], y[var == 0], rtol=0, atol=1e-6)
    assert all_finite(x_0)


@pytest.mark.parametrize("name", ["gm_sde", pytest.param("gm_sde, spectrum", marks=slow)])
def test_an_infinite_variance_changes_no_sample(name, pictures, guided, fast_compile):
    x, y, var = pictures

    def run(denoise):
        return solvers.sample(jax.random.key(0), denoise, x, SOLVERS[name], GRID)

    expected = run(guided(0.4))
    np.testing.assert_array_equal(run(guidance.observe(guided(0.4), y, jnp.inf)), expected)
    # Another program, whose rounding may differ.
    traced = jax.jit(lambda var: run(guidance.observe(guided(0.4), y, var)))
    np.testing.assert_allclose(traced(jnp.full_like(var, jnp.inf)), expected, atol=1e-5)


def test_order_2_with_an_exact_network_changes_nothing(plane, pictures, uncompiled):
    x, y, var = pictures
    denoise, key = guidance.observe(plane.denoiser(), y, var), jax.random.key(1)
    for make in (solvers.gm_sde, functools.partial(solvers.gm_ode, num_substeps=2)):
        first, second = (solvers.sample(key, denoise, x, make(order), GRID) for order in (1, 2))
        np.testing.assert_allclose(second, first, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gm_ode", "gm_sde", "gm_pc"])
def test_gradients_of_samples_are_finite(name, pictures, guided, fast_compile):
    x, y, var = pictures

    def loss(x, y, var):
        denoise = guidance.observe(guided(0.4), y, var)
        x_0 = solvers.sample(jax.random.key(0), denoise, x, SOLVERS[name], GRID)
        return jnp.sum(jnp.sin(x_0))

    assert all_finite(jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(x, y, jnp.asarray(var)))


@pytest.mark.parametrize("name", ["gm_ode 1", "gm_sde", "gm_pc"])
def test_means_of_pixels_are_reached(name, pictures, rippled, uncompiled):
    """Downsampling with little noise: the bound on the curvature keeps the factor from overshooting."""
    x, y, _ = pictures
    coarse, var = 0.3 * jnp.mean(y, axis=(1, 2)), 1e-4

    def log_likelihood(x_0):
        return -jnp.sum(jnp.square(jnp.mean(x_0, axis=(1, 2)) - coarse), axis=-1) / (2 * var)

    denoise = guidance.observe_approximately(rippled.denoiser(), log_likelihood, 1 / (6 * var))
    x_0 = solvers.sample(jax.random.key(0), denoise, x, SOLVERS[name], flow.time_grid(4))
    np.testing.assert_allclose(jnp.mean(x_0, axis=(1, 2)), coarse, atol=0.05)  # measured: at most 0.021
