"""gm_ode's options for networks that were distilled for few steps: temperature and new noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, guidance, solvers

pytestmark = pytest.mark.usefixtures("fast_compile")


def samples(space, solver, num_steps, num_samples=4000):
    noise = jax.random.normal(jax.random.key(1), (num_samples, 3))
    sample = jax.jit(lambda x: solvers.sample(
        jax.random.key(0), space.denoiser(), x, solver, flow.time_grid(num_steps)
    ))
    return noise, sample(noise)


@pytest.mark.parametrize("renoise", [0.5, 1.0])
def test_new_noise_leaves_the_distribution_of_an_exact_network(space, renoise):
    _, found = samples(space, solvers.gm_ode(1, 8, integrator="midpoint", renoise=renoise), 3)
    weights, means, var = (np.float64(v) for v in (space.weights, space.means, np.square(space.std)))
    mean = weights @ means
    covariance = (weights * (means - mean).T) @ (means - mean) + var * np.eye(3)
    spread = np.sqrt(np.diag(covariance) / len(found))
    np.testing.assert_array_less(np.abs(np.mean(found, 0) - mean), 4 * spread)
    np.testing.assert_allclose(np.cov(found.T), covariance, atol=0.05)  # 0.02 is its standard error


def test_new_noise_changes_all_steps_but_the_last(space):
    """With one step there is nothing to add noise to: the step ends at the data."""
    plain, noisy = (solvers.gm_ode(1, 4, renoise=r) for r in (0.0, 0.7))
    np.testing.assert_allclose(samples(space, noisy, 1)[1], samples(space, plain, 1)[1], atol=1e-6)
    assert np.abs(samples(space, noisy, 2)[1] - samples(space, plain, 2)[1]).max() > 0.1


def test_temperature_acts_in_all_steps_but_the_last(space):
    plain, cold = solvers.gm_ode(1, 4), solvers.gm_ode(1, 4, temperature=0.3)
    noise, expected = samples(space, plain, 1)
    np.testing.assert_allclose(samples(space, cold, 1)[1], expected, atol=1e-6)
    denoise, t, s = space.denoiser(), jnp.ones(()), jnp.full((), 0.4)
    found, _ = cold.step(None, denoise, noise, t, s, cold.init(denoise, noise))
    tempered, _ = plain.step(None, lambda x, t: gm.temper(denoise(x, t), 0.3), noise, t, s, ())
    np.testing.assert_allclose(found, tempered, atol=1e-6)


def test_options_may_be_traced_and_of_any_float_type(x64):
    def run(temperature, renoise, dtype=np.float32):
        solver = solvers.gm_ode(1, 2, temperature=temperature, renoise=renoise)
        x = jnp.linspace(-1, 1, 12, dtype=dtype).reshape(4, 3)
        denoise = flow.denoiser(lambda x, t: jnp.tanh(x))
        return solvers.sample(jax.random.key(0), denoise, x, solver, flow.time_grid(2))

    expected = run(0.5, 0.25)
    others = run(np.float64(0.5), np.float64(0.25)), run(0.5, np.float32(0.25))
    for found in (jax.jit(run)(0.5, 0.25), *others):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert run(np.float32(0.5), np.float32(0.25), np.float64).dtype == jnp.float64


@pytest.mark.parametrize(("order", "renoise"), [pytest.param(1, 1e-9, marks=pytest.mark.slow), (2, 0.5)])
def test_an_own_loop_with_a_time_for_each_sample_is_sample(order, renoise):
    """Where times are known, and some samples are done; with guidance; the last sample by itself."""
    cond, uncond = flow.denoiser(lambda x, t: jnp.tanh(x)), flow.denoiser(lambda x, t: 0.1 * x)
    denoise = guidance.guided_denoiser(cond, uncond, 0.3)
    solver = solvers.gm_ode(order, 2, temperature=0.5, renoise=renoise)
    noise = jax.random.normal(jax.random.key(1), (3, 3))
    keys = jax.random.split(jax.random.key(0), 3)
    x, state = noise, solver.init(denoise, noise)
    for i, (t, s) in enumerate([(1.0, jnp.asarray([0.6, 0.0, 0.6])), (jnp.asarray([0.6, 0.0, 0.6]), 0.0)]):
        step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
        x, state = solver.step(step_keys, denoise, x, t, s, state)
    expected = solvers.sample(keys, denoise, noise, solver, jnp.asarray([1.0, 0.6, 0.0]))
    np.testing.assert_allclose(x[::2], expected[::2], atol=1e-5)
    alone = solvers.sample(keys[2:], denoise, noise[2:], solver, jnp.asarray([1.0, 0.6, 0.0]))
    np.testing.assert_allclose(alone[0], expected[2], atol=1e-5)


def test_new_noise_needs_a_key_or_draws_of_the_step(space):
    solver, x, denoise = solvers.gm_ode(1, 2, renoise=1.0), jnp.ones((4, 3)), space.denoiser()
    with pytest.raises(ValueError, match="pass a PRNG key or Draws, not None"):
        solvers.sample(None, denoise, x, solver, flow.time_grid(2))
    quiet = solver.step(solvers.Draws(step_noise=jnp.zeros((4, 3))), denoise, x, 1.0, 0.4, ())[0]
    loud = solver.step(solvers.Draws(step_noise=jnp.ones((4, 3))), denoise, x, 1.0, 0.4, ())[0]
    np.testing.assert_allclose(loud - quiet, 0.4, atol=1e-6)  # from the data, x_s = (1 - s) x_0 + s noise
    data, _ = solver.step(jax.random.key(0), denoise, x, 1.0, 0.0, ())
    np.testing.assert_allclose(quiet, 0.6 * data, atol=1e-6)


@pytest.mark.parametrize(
    "options", [{"temperature": 0.0}, {"temperature": "low"}, {"renoise": 1.5}, {"renoise": -0.1}]
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be in"):
        solvers.gm_ode(1, **options)
