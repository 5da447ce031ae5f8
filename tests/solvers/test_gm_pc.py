"""GM-PC: exact for exact networks, of order 2 for others, and no worse than plain solvers."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, guidance, solvers
from tests.helpers import all_finite, rms_error


@pytest.fixture
def start():
    return lambda dim=2, n=256: jax.random.normal(jax.random.key(0), (n, dim), jnp.float64)


def endpoint(denoise, x, solver, times):
    return jax.jit(lambda x: solvers.sample(None, denoise, x, solver, times))(x)


def reference(network, x, t=1.0, s=0.0, num_steps=400):
    """The flow of the network's mean velocity, by the classical Runge-Kutta method."""
    times = jnp.linspace(t, s, num_steps + 1)

    def velocity(x, t):
        return gm.mean(network.velocity(x, t))

    def step(x, ends):
        a, h = ends[0], ends[1] - ends[0]
        k1 = velocity(x, a)
        k2 = velocity(x + h / 2 * k1, a + h / 2)
        k3 = velocity(x + h / 2 * k2, a + h / 2)
        k4 = velocity(x + h * k3, a + h)
        return x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), None

    return jax.jit(lambda x: jax.lax.scan(step, x, (times[:-1], times[1:]))[0])(x)


@pytest.mark.parametrize("num_steps", [1, 2, 5])
def test_follows_the_flow_of_an_exact_network(plane, start, x64, num_steps):
    x = start()
    expected = reference(plane, x)
    found = endpoint(plane.denoiser(), x, solvers.gm_pc(64, integrator="rk4"), flow.time_grid(num_steps, 1.5))
    # Two trajectories near the border between two modes amplify the sub-steps' error. Measured: 4e-5.
    assert rms_error(found, expected) < 2e-4


GRIDS = {
    "uniform": lambda n: flow.time_grid(n),
    "shifted": lambda n: flow.time_grid(n, 3.0),
    # Steps in the ratio 2 : 1 in turn.
    "alternating": lambda n: 1 - jnp.cumsum(jnp.asarray([0.0, *[2.0, 1.0] * (n // 2)])) / (1.5 * n),
}


@pytest.mark.parametrize(
    ("grid", "end", "order"),
    [("uniform", 0.0, 2.2), ("shifted", 0.0, 1.55), ("alternating", 0.0, 1.55), ("alternating", 0.1, 1.7)],
)
def test_order_for_an_inexact_network(shifted, start, x64, grid, end, order):
    # To t = 0 the mixture's shape changes by as much in every step, however short: h^2 log h.
    x = start()
    expected = reference(shifted, x, s=end)
    solver, counts = solvers.gm_pc(8, integrator="rk4"), (16, 32)
    errors = [
        rms_error(endpoint(shifted.denoiser(), x, solver, end + (1 - end) * GRIDS[grid](n)), expected)
        for n in counts
    ]
    slopes = -np.diff(np.log2(errors))
    assert slopes.min() > order, (errors, slopes)


def test_better_than_plain_solvers_on_the_same_network(rippled, start, x64):
    x = start()
    expected = reference(rippled, x)
    for n in (1, 2, 4, 8, 16):
        times = flow.time_grid(n)
        plain = [solvers.euler(), solvers.ab2(), solvers.dpmpp_2m(), solvers.unipc()]
        best = min(rms_error(endpoint(rippled.denoiser(), x, solver, times), expected) for solver in plain)
        assert rms_error(endpoint(rippled.denoiser(), x, solvers.gm_pc(), times), expected) < best


def test_the_corrector_reduces_the_error(rippled, start, x64):
    x = start()
    expected, times = reference(rippled, x), flow.time_grid(16)
    predictor, both = (
        rms_error(endpoint(rippled.denoiser(), x, solvers.gm_pc(corrector=c), times), expected)
        for c in (False, True)
    )
    assert both < 0.6 * predictor


def test_finite_at_both_ends_and_for_points(plane, fast_compile, x64):
    x = jax.random.normal(jax.random.key(0), (16, 2), jnp.float64)
    point = flow.denoiser(lambda x, t: (x - jnp.asarray([[0.7, -0.4]])) / t)
    for denoise in (plane.denoiser(), point):
        for n in (1, 3):
            def total(x, n=n, denoise=denoise):
                return jnp.sum(solvers.sample(None, denoise, x, solvers.gm_pc(), flow.time_grid(n)))

            results = jax.jit(jax.value_and_grad(total))(x)
            assert all_finite(results)


def test_times_may_differ_within_a_batch(rippled, uncompiled):
    x = jax.random.normal(jax.random.key(0), (2, 3, 2))
    solver, denoise = solvers.gm_pc(), rippled.denoiser()
    times = np.asarray([[1.0, 0.9], [0.7, 0.5], [0.2, 0.1], [0.0, 0.05]])

    def run(x, times):
        state = solver.init(denoise, x)
        for t, s in itertools.pairwise(times):
            both = np.ndim(t) > 0
            call = _per_sample(denoise) if both else denoise
            x, state = solver.step(None, call, x, jnp.asarray(t), jnp.asarray(s), state)
        return x

    together = run(x, times.astype(np.float32))
    for i in range(2):
        alone = run(x[i : i + 1], [np.float32(t) for t in times[:, i]])
        np.testing.assert_allclose(together[i : i + 1], alone, atol=2e-6)


def _per_sample(denoise):
    """Apply a denoiser of a scalar time to times [B], sample by sample."""

    def call(x, t):
        parts = [denoise(x[i : i + 1], t[i]) for i in range(len(t))]
        q = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *[
            gm.GaussianMixture(p.means, p.log_weights, jnp.broadcast_to(p.log_std, p.log_weights.shape[:-1]))
            for p in parts
        ])
        return q

    return call


def test_guided_predictions(plane, shifted, uncompiled):
    x = jax.random.normal(jax.random.key(0), (64, 2))
    guided = guidance.guided_denoiser(plane.denoiser(), shifted.denoiser(), 0.3)
    off = guidance.guided_denoiser(plane.denoiser(), shifted.denoiser(), 0.0)
    times = flow.time_grid(3)
    results = [solvers.sample(None, d, x, solvers.gm_pc(), times) for d in (guided, off, plane.denoiser())]
    np.testing.assert_allclose(results[1], results[2], atol=2e-5)
    assert rms_error(results[0], results[1]) > 0.02


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="integrator 'rk5' is unknown"):
        solvers.gm_pc(integrator="rk5")
    with pytest.raises(ValueError, match="num_substeps must be at least 1"):
        solvers.gm_pc(0)
