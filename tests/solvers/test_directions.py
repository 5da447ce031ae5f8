"""Steps that rest or go from data to noise, a grid for each sample, and aux of the denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, solvers
from tests.helpers import rms_error

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")

SOLVERS = {name: solvers.by_name(name, num_substeps=2) for name in solvers.NAMES} | {
    "gm_ode 1": solvers.gm_ode(1, 2), "gm_sde 1": solvers.gm_sde(1)
}
QUICK = ("euler", "heun", "ab2", "unipc", "gm_ode 1", "gm_sde 1")
EACH = [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in SOLVERS]
BOTH_WAYS = ("euler", "heun", "ab2", "dpmpp_2m")
GRID = np.asarray([1.0, 0.6, 0.3, 0.0], np.float32)
KEY = jax.random.key(2)


@pytest.fixture(scope="module")
def x_init():
    return jax.random.normal(jax.random.key(1), (5, 2))


def network(x, t):
    """A velocity for times of any shape."""
    return jnp.tanh(x * (1 + jnp.reshape(t, (-1, 1))))


DENOISE = flow.denoiser(network)


@pytest.mark.parametrize("name", EACH)
def test_a_step_at_rest_changes_nothing(name, x_init):
    """Neither the point nor the state, at any time, and no gradient turns into NaN."""
    solver = SOLVERS[name]

    def init(x):
        call = lambda x, t: DENOISE(x, jnp.broadcast_to(t, len(x)))  # noqa: E731
        return solver.step(KEY, DENOISE, x, jnp.ones(5), jnp.full(5, 0.5), solver.init(call, x))

    @jax.jit
    def run(x, t, s):
        before = init(x)
        after, pull = jax.vjp(lambda x: solver.step(KEY, DENOISE, x, t, s, before[1])[0], before[0])
        return before, solver.step(KEY, DENOISE, before[0], t, s, before[1]), pull(jnp.ones_like(after))[0]

    each = jnp.asarray([0.5, 0.3, 0.0, 0.1, 1e-6])
    for t in (each, jnp.zeros(5)):
        before, after, gradient = run(x_init, t, t)
        jax.tree.map(np.testing.assert_array_equal, after, before)
        np.testing.assert_array_equal(gradient, 1.0)
    before, (x, _), gradient = run(x_init, each, each.at[0].set(0.2))
    np.testing.assert_array_equal(x[1:], before[0][1:])
    assert np.abs(x[0] - before[0][0]).max() > 1e-3 and np.all(np.isfinite(gradient))


@pytest.mark.parametrize("name", ["gm_ode", "gm_sde", "unipc"])
def test_a_padded_grid_gives_the_sample_of_the_grid(name, x_init):
    def sample(times):
        return solvers.sample(KEY, DENOISE, x_init, SOLVERS[name], times)

    expected = jax.jit(sample)(GRID)
    padded = np.pad(GRID, (0, 3))
    np.testing.assert_array_equal(jax.jit(sample)(padded), expected)  # traced
    np.testing.assert_array_equal(jax.jit(lambda: sample(padded))(), expected)  # known


def test_samples_may_rest_at_any_time_while_others_move(x_init):
    """So that each starts and ends where it needs to."""
    grids = np.tile(GRID[:, None], 5)
    grids[0, 1], grids[2, 2], grids[2:, 3] = 0.6, 0.6, 0.3
    together = solvers.sample(None, DENOISE, x_init, solvers.euler(), grids)
    for i in (1, 2, 3):
        moves = np.unique(grids[:, i])[::-1].copy()
        alone = solvers.sample(None, DENOISE, x_init[i : i + 1], solvers.euler(), moves)
        np.testing.assert_allclose(together[i : i + 1], alone, atol=2e-6)


@pytest.mark.parametrize("name", EACH)
def test_a_grid_for_each_sample(name, x_init, uncompiled):
    keys = jax.random.split(KEY, 5)
    grids = np.stack([GRID**power for power in (1.0, 0.8, 1.2, 1.5, 1.1)], axis=1)

    together = solvers.sample(keys, DENOISE, x_init, SOLVERS[name], grids)
    for i in (0, 3):
        one = slice(i, i + 1)
        alone = solvers.sample(keys[one], DENOISE, x_init[one], SOLVERS[name], grids[:, i])
        np.testing.assert_allclose(together[one], alone, atol=2e-6)


@pytest.mark.parametrize("name", BOTH_WAYS)
def test_data_goes_to_its_noise_and_back(name, plane):
    """Of order 1 or 2, against the flow map in fine steps."""
    noise = jax.random.normal(jax.random.key(0), (200, 2))
    x_0 = plane.flow(noise)
    run = jax.jit(lambda x, times: solvers.sample(None, plane.denoiser(), x, SOLVERS[name], times))
    errors = []
    for num_steps in (32, 128):
        times = flow.time_grid(num_steps)
        there = run(x_0, times[::-1])
        errors.append((rms_error(there, noise), rms_error(run(there, times), x_0)))
    ratios = np.divide(*errors)
    assert np.all(ratios > 0.6 * 4 ** (1 if name == "euler" else 1.6)), (errors, ratios)


def test_increasing_times_that_are_traced(x_init):
    """A solver that goes only to data gives NaN; the others the same as with known times, and gradients."""
    times = jnp.asarray(GRID[::-1])
    for name in ("euler", "gm_ode 1", "ddpm"):
        run = jax.jit(lambda x, times: solvers.sample(KEY, DENOISE, x, SOLVERS[name], times))  # noqa: B023
        found = run(x_init, times)
        assert np.all(np.isnan(found)) if name != "euler" else np.all(np.isfinite(found))
    gradient = jax.jit(jax.grad(lambda x: solvers.sample(None, DENOISE, x, solvers.heun(), times).sum()))
    assert np.all(np.isfinite(gradient(x_init)))


@pytest.mark.parametrize("name", ["euler", "heun", "gm_ode"])
def test_aux_comes_back(name, x_init, uncompiled):
    def with_aux(x, t):
        return DENOISE(x, t), {"x": x, "t": t}

    plain = solvers.sample(None, DENOISE, x_init, SOLVERS[name], GRID, True)
    last, aux = solvers.sample(None, with_aux, x_init, SOLVERS[name], GRID, has_aux=True)
    np.testing.assert_array_equal(last, plain[-1])
    np.testing.assert_array_equal(aux["x"], plain[-2])
    padded = np.pad(GRID, (0, 1))
    states, aux = solvers.sample(None, with_aux, x_init, SOLVERS[name], padded, True, has_aux=True)
    np.testing.assert_array_equal(states[:4], plain)
    np.testing.assert_array_equal(aux["t"], GRID[[0, 1, 2, 2]])  # at rest aux is kept
    np.testing.assert_array_equal(aux["x"], plain[jnp.asarray([0, 1, 2, 2])])
    padded = np.pad(GRID, (1, 0), "edge")
    _, aux = solvers.sample(None, with_aux, x_init, SOLVERS[name], padded, True, has_aux=True)
    np.testing.assert_array_equal(aux["t"], GRID[[0, 0, 1, 2]])
