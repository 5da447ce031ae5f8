"""GM-PC: exact for exact networks, of order 2 for others, and no worse than plain solvers."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, guidance, solvers
from tests.helpers import all_finite, rms_error

# Every program runs a few times only.
pytestmark = pytest.mark.usefixtures("fast_compile")

# One object each, so that all tests share its program.
PC, PREDICTOR = solvers.gm_pc(), solvers.gm_pc(corrector=False)
FINE, COARSE = (solvers.gm_pc(n, integrator="rk4") for n in (64, 8))
PLAIN = [solvers.euler(), solvers.ab2(), solvers.dpmpp_2m(), solvers.unipc()]


@pytest.fixture
def x(x64):
    return jax.random.normal(jax.random.key(0), (256, 2), jnp.float64)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_follows_the_flow_of_an_exact_network(plane, x, num_steps):
    found = plane.endpoint(FINE, x, flow.time_grid(num_steps, 1.5))
    # Two trajectories near the border between two modes amplify the sub-steps' error. Measured: 4e-5.
    assert rms_error(found, plane.flow(x)) < 2e-4


GRIDS = {
    "uniform": lambda n: flow.time_grid(n),
    "shifted": lambda n: flow.time_grid(n, 3.0),
    # Steps in the ratio 2 : 1 in turn.
    "alternating": lambda n: 1 - np.cumsum([0.0, *[2.0, 1.0] * (n // 2)]) / (1.5 * n),
}


@pytest.mark.parametrize(
    ("grid", "end", "order"),
    [("uniform", 0.0, 2.2), ("shifted", 0.0, 1.55), ("alternating", 0.0, 1.55), ("alternating", 0.1, 1.7)],
)
def test_order_for_an_inexact_network(shifted, x, grid, end, order):
    # To t = 0 the mixture's shape changes by as much in every step, however short: h^2 log h.
    expected = shifted.flow(x, end)
    errors = [
        rms_error(shifted.endpoint(COARSE, x, end + (1 - end) * GRIDS[grid](n)), expected) for n in (16, 32)
    ]
    slopes = -np.diff(np.log2(errors))
    assert slopes.min() > order, (errors, slopes)


def test_better_than_plain_solvers_on_the_same_network(rippled, x):
    expected = rippled.flow(x)
    for n in (1, 2, 4, 8, 16):
        times = flow.time_grid(n)
        ours, *plain = (
            rms_error(rippled.endpoint(solver, x, times), expected) for solver in (PC, *PLAIN)
        )
        assert ours < min(plain)


def test_the_corrector_reduces_the_error(rippled, x):
    expected, times = rippled.flow(x), flow.time_grid(16)
    predictor, both = (
        rms_error(rippled.endpoint(solver, x, times), expected) for solver in (PREDICTOR, PC)
    )
    assert both < 0.6 * predictor


def test_finite_at_both_ends_and_for_points(plane, x64, fast_compile):
    x = jax.random.normal(jax.random.key(0), (16, 2), jnp.float64)
    point = type(plane)([[0.7, -0.4]] * 4, plane.weights, 0.0)

    @jax.jit
    def results(params, x, times):
        total = lambda x: jnp.sum(solvers.sample(None, plane.denoiser(params), x, PC, times))  # noqa: E731
        return jax.value_and_grad(total)(x)

    for times in (flow.time_grid(3), jnp.asarray([1.0, 0.0, 0.0, 0.0])):  # the second one is a single step
        for network in (plane, point):
            assert all_finite(results(network.params, x, times))


def test_times_may_differ_within_a_batch(rippled):
    x = jax.random.normal(jax.random.key(0), (2, 3, 2))
    times = np.asarray([[1.0, 0.9], [0.7, 0.5], [0.2, 0.1], [0.0, 0.05]], np.float32)

    def one(x, t):
        q = rippled.denoiser()(x, t)
        return dataclasses.replace(q, log_std=jnp.broadcast_to(q.log_std, x.shape[:1]))

    def denoise(x, t):
        return jax.vmap(one)(x, jnp.broadcast_to(t, x.shape[:1]))

    step = jax.jit(lambda *inputs: PC.step(None, denoise, *inputs))

    def run(x, times):
        state = PC.init(denoise, x)
        for t, s in itertools.pairwise(times):
            x, state = step(x, t, s, state)
        return x

    together = run(x, times)
    for i in range(2):
        np.testing.assert_allclose(together[i : i + 1], run(x[i : i + 1], times[:, i]), atol=2e-6)


def test_guided_predictions(plane, shifted, x):
    @jax.jit
    def run(scale, times):
        denoise = guidance.guided_denoiser(plane.denoiser(), shifted.denoiser(), scale)
        return solvers.sample(None, denoise, x, PC, times)

    times = flow.time_grid(3)
    guided, off = (run(scale, times) for scale in (0.3, 0.0))
    np.testing.assert_allclose(off, plane.endpoint(PC, x, times), atol=2e-5)
    assert rms_error(guided, off) > 0.02


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="integrator 'rk5' is unknown"):
        solvers.gm_pc(integrator="rk5")
    with pytest.raises(ValueError, match="num_substeps must be at least 1"):
        solvers.gm_pc(0)
