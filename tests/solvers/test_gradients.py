"""Gradients through `sample` are right, and finite for extreme mixtures."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, guidance, solvers

SOLVERS = {
    "gm_ode_1": lambda: solvers.gm_ode(1, 2),
    "gm_ode_2": lambda: solvers.gm_ode(2, 2, correction_steps=1),
    "gm_sde_1": lambda: solvers.gm_sde(1),
    "gm_sde_2": lambda: solvers.gm_sde(2),
    "euler": solvers.euler,
    "ab2": solvers.ab2,
    "ddpm_large": lambda: solvers.ddpm("large"),
}


def draws(num_steps, batch, components, dim, dtype):
    rng = np.random.default_rng(4)
    normal = rng.normal(size=(2, num_steps, batch, dim))
    component = jnp.asarray(rng.integers(0, components, (num_steps, batch)))
    return solvers.Draws(component, *jnp.asarray(normal, dtype))


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("gm_ode_1", None), pytest.param("gm_ode_2", 0.3, marks=pytest.mark.slow), ("gm_sde_1", 0.3),
        ("gm_sde_2", None),
    ],
)
def test_gradients_equal_finite_differences(rippled, guided, name, scale, fast_compile, x64):
    key = draws(3, 4, 4, 2, jnp.float64)
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(4, 2)))
    arguments = (jnp.asarray(rng.normal(size=(4, 2))), rippled.params)

    def loss(x_init, params):
        denoise = guided(scale, params) if scale else rippled.denoiser(params)
        x = solvers.sample(key, denoise, x_init, SOLVERS[name](), flow.time_grid(3))
        return jnp.sum(weights * x)

    value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
    _, gradient = value_and_grad(*arguments)
    for part in (0, 1):  # the starting point, then the network's parameters
        direction = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), arguments[part])

        def moved(step, part=part, direction=direction):
            shifted = jax.tree.map(lambda a, d: a + step * d, arguments[part], direction)
            return value_and_grad(*(shifted if i == part else arguments[i] for i in range(2)))[0]

        products = jax.tree.map(lambda g, d: jnp.sum(g * d), gradient[part], direction)
        expected = (moved(1e-5) - moved(-1e-5)) / 2e-5
        np.testing.assert_allclose(sum(jax.tree.leaves(products)), expected, rtol=1e-6)


# One sample each: a collapsed velocity, exact points, an ordinary and a wide one.
LOG_STD = (-12.0, -math.inf, 0.0, 4.0)
TINY, HALF = math.log(1e-30), math.log(0.5)
LOG_WEIGHTS = ((0.0, TINY, TINY), (HALF, HALF, TINY), (TINY, HALF, HALF), (0.0, TINY, TINY))
TIMES = (1.0, 1 - 1e-6, 0.5, 1e-6, 0.0)


def extreme_network(params):
    """A velocity mixture that does not depend on the state, with extreme spread and weights."""

    def velocity(x, t):
        means = params["means"] + 0.1 * x[:, None]
        return gm.GaussianMixture(means, params["log_weights"], params["log_std"])

    return flow.denoiser(velocity)


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        *(pytest.param(*case, marks=pytest.mark.slow) for case in (("gm_ode_2", 0.9), ("gm_sde_2", None))),
        ("gm_sde_2", 0.9), ("gm_ode_1", None), ("ab2", None), ("ddpm_large", None),
    ],
)
def test_values_and_gradients_stay_finite(name, scale, fast_compile):
    key = draws(4, 4, 3, 2, jnp.float32)
    rng = np.random.default_rng(1)
    params = {
        "means": jnp.asarray(rng.normal(size=(4, 3, 2)), jnp.float32),
        "log_weights": jnp.asarray(LOG_WEIGHTS),
        "log_std": jnp.asarray(LOG_STD),
    }
    x_init = jnp.asarray(rng.normal(size=(4, 2)), jnp.float32)

    def loss(x_init, params):
        denoise = extreme_network(params)
        if scale is not None:
            # Equal predictions for the third sample: the guidance difference and its norm are 0.
            apart = jnp.asarray([0.5, 0.5, 0.0, 0.5]).reshape(4, 1, 1)
            other = params | {"means": params["means"] - apart}
            denoise = guidance.guided_denoiser(denoise, extreme_network(other), scale)
        x = solvers.sample(key, denoise, x_init, SOLVERS[name](), jnp.asarray(TIMES))
        return jnp.sum(jnp.square(x)), x

    value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
    (_, x), gradient = value_and_grad(x_init, params)
    assert np.all(np.isfinite(x))
    for leaf in jax.tree.leaves(gradient):
        assert np.all(np.isfinite(leaf)), gradient
