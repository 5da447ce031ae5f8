"""GM-ODE's integrators: their order on an exact network, and the ends of the time interval."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, solvers
from gmflow_jax.flow import _substeps
from tests.helpers import rms_error

# One object each, so that both ends share its program.
SOLVERS = {
    (name, n): solvers.gm_ode(1, n, shift=1.5, integrator=name)
    for name in _substeps.INTEGRATORS
    for n in (16, 32)
}


@pytest.mark.parametrize(("integrator", "order"), [("euler", 1), ("midpoint", 2), ("heun", 2), ("rk4", 4)])
@pytest.mark.parametrize("end", [0.2, 0.0])
def test_order_in_the_substep(space, x64, fast_compile, integrator, order, end):
    x = jax.random.normal(jax.random.key(0), (64, 3), jnp.float64)
    found = [space.endpoint(SOLVERS[integrator, n], x, [1.0, 0.7, end]) for n in (16, 32)]
    errors = [rms_error(f, space.flow(x, end)) for f in found]
    # Measured on this mixture, to 0.2 and to 0: 0.99 to 1.06, 1.9 to 2.1, 1.9 to 2.2, 4.0 and 2.9.
    expected = order if end else min(order, 2)
    assert np.log2(errors[0] / errors[1]) > expected - 0.15, errors


def test_every_integrator_reaches_a_point(x64, uncompiled):
    # A mixture of no variance: its velocity is constant along the path.
    x = jax.random.normal(jax.random.key(0), (8, 2), jnp.float64)
    point = jnp.asarray([[0.7, -0.4]])
    q = gm.GaussianMixture(jnp.broadcast_to(point[None], (8, 1, 2)), jnp.zeros((8, 1)), jnp.asarray(-jnp.inf))
    for integrator in _substeps.INTEGRATORS:
        solver = solvers.gm_ode(1, 3, integrator=integrator)
        found = solvers.sample(None, lambda x, t: q, x, solver, flow.time_grid(2))
        np.testing.assert_allclose(found, jnp.broadcast_to(point, x.shape), atol=1e-14)


def test_gradients_are_finite_at_both_ends(rippled, fast_compile):
    x = jax.random.normal(jax.random.key(0), (8, 2))
    for integrator in ("heun", "rk4"):
        solver = solvers.gm_ode(1, 2, integrator=integrator)
        total = jax.jit(jax.grad(lambda x, s=solver: jnp.sum(
            solvers.sample(None, rippled.denoiser(), x, s, flow.time_grid(2))
        )))
        assert np.isfinite(total(x)).all()
