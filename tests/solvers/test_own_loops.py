"""Solvers in a loop of the caller's own: dtypes stay what they are. And networks that forgot log_softmax."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, guidance, solvers

pytestmark = pytest.mark.usefixtures("fast_compile")

RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(4, 2)), jnp.float32)
GRID = flow.time_grid(3)
SOLVERS = {name: solvers.by_name(name) for name in solvers.NAMES} | {
    "gm_ode": solvers.gm_ode(2, 2), "gm_ode 1": solvers.gm_ode(1, 2), "gm_sde 1": solvers.gm_sde(1)
}


def network(raw, x_t, t):
    x_t = x_t.astype(jnp.float32)
    means = jnp.stack([jnp.sin(x_t), x_t, -x_t], axis=-2)
    logits = 2 * means.sum(axis=-1) + 1
    return gm.GaussianMixture(means, logits if raw else jax.nn.log_softmax(logits), jnp.zeros(()))


def denoisers(raw):
    """Conditional, and with both kinds of guidance."""
    cond = flow.denoiser(functools.partial(network, raw))
    uncond = flow.denoiser(lambda x_t, t: network(raw, x_t + 0.5, t))
    guided = [guidance.guided_denoiser(cond, uncond, *a) for a in ((0.3,), (2.0, "cfg"))]
    return [cond, *guided]


def in_a_loop(solver, denoise, x, times):
    def body(i, carry):
        return solver.step(jax.random.fold_in(jax.random.key(0), i), denoise, carry[0], *times[i], carry[1])

    return jax.lax.fori_loop(0, len(times), body, (x, solver.init(denoise, x)))


@pytest.mark.parametrize("name", SOLVERS)
def test_points_and_states_keep_their_dtypes(name, x64):
    """Tracing shows it: a loop refuses a carry that changes its type."""
    times = jnp.stack([GRID[:-1], GRID[1:]], axis=-1)
    for denoise in denoisers(raw=False)[:2]:
        for x_dtype, t_dtype in (("bfloat16", "float32"), ("float32", "float64"), ("float64", "float32")):
            loop = functools.partial(in_a_loop, SOLVERS[name], denoise)
            found = jax.eval_shape(loop, X.astype(x_dtype), times.astype(t_dtype))[0]
            assert found.dtype == x_dtype and found.shape == X.shape


def test_a_loop_in_bfloat16_is_near_that_in_float32():
    times = jnp.stack([GRID[:-1], GRID[1:]], axis=-1)
    run = jax.jit(functools.partial(in_a_loop, SOLVERS["unipc"], denoisers(raw=False)[0]))
    found, expected = run(X.astype(jnp.bfloat16), times)[0], run(X, times)[0]
    np.testing.assert_allclose(found.astype(jnp.float32), expected, atol=0.05)  # three roundings of 2**-8


def test_traced_raw_logits_are_normalised():
    @jax.jit
    def run():
        pairs = [(name, i) for name in ("euler", "gm_sde") for i in range(3)]
        sample = lambda raw, name, i: solvers.sample(  # noqa: E731
            jax.random.key(0), denoisers(raw)[i], X, SOLVERS[name], GRID
        )
        return [(sample(True, *pair), sample(False, *pair)) for pair in pairs]

    for raw, normalised in run():
        np.testing.assert_allclose(raw, normalised, atol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_known_raw_logits_are_refused(name):
    t, s = jnp.float32(0.5), jnp.float32(0.4)
    for denoise in denoisers(raw=True):
        state = SOLVERS[name].init(denoise, X)
        with pytest.raises(ValueError, match=r"log_weights must be normalised.*jax.nn.log_softmax"):
            SOLVERS[name].step(jax.random.key(0), denoise, X, t, s, state)
