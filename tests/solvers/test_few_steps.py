"""gm_ode's options for networks that were distilled for few steps: temperature and new noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, solvers

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


@pytest.mark.parametrize("options", [{"temperature": 0.0}, {"renoise": 1.5}, {"renoise": -0.1}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="must be in"):
        solvers.gm_ode(1, **options)
