"""solvers.sample: batches, keys, dtypes, trajectories, loops over steps, and recompilation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, guidance, solvers

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")

TIMES = (1.0, 0.7, 0.3, 0.0)
ALL = {
    "gm_ode_1": lambda **kw: solvers.gm_ode(1, 2),
    "gm_ode_2": lambda **kw: solvers.gm_ode(2, 2, **kw),
    "gm_sde_1": lambda **kw: solvers.gm_sde(1),
    "gm_sde_2": lambda **kw: solvers.gm_sde(2, **kw),
    "euler": lambda **kw: solvers.euler(),
    "ab2": lambda **kw: solvers.ab2(),
    "ddpm": lambda **kw: solvers.ddpm("large"),
}


@pytest.fixture(params=list(ALL))
def solver(request):
    return ALL[request.param]()


@pytest.fixture(scope="module")
def x_init():
    return jax.random.normal(jax.random.key(5), (6, 2))


@pytest.fixture(scope="module")
def keys():
    return jax.random.split(jax.random.key(6), 6)


def times():
    return jnp.asarray(TIMES)


@pytest.mark.parametrize("name", [pytest.param("gm_ode_2", marks=pytest.mark.slow), "gm_sde_2", "ddpm"])
def test_batched_looped_and_vmapped_agree(rippled, x_init, keys, name, uncompiled):
    denoise, build = rippled.denoiser(), ALL[name]
    batched = solvers.sample(keys, denoise, x_init, build(), times())
    for i in (0, 4):
        one = slice(i, i + 1)
        looped = solvers.sample(keys[one], denoise, x_init[one], build(), times())
        np.testing.assert_allclose(looped, batched[one], atol=1e-6)
    # vmap leaves no batch axis, so that a sample has no axes of its own.
    alone = build(sample_axes=())
    vmapped = jax.vmap(lambda k, x: solvers.sample(k, denoise, x, alone, times()))(keys, x_init)
    np.testing.assert_allclose(vmapped, batched, atol=1e-6)


@pytest.mark.parametrize("name", ["gm_sde_2", "ddpm"])
def test_a_sample_does_not_depend_on_the_batch_around_it(rippled, x_init, name):
    key, solver = jax.random.key(7), ALL[name]()
    run = jax.jit(lambda x: solvers.sample(key, rippled.denoiser(), x, solver, times()))
    np.testing.assert_array_equal(run(x_init[:2]), run(x_init)[:2])


def test_one_key_is_folded_with_the_index_of_the_sample(rippled, x_init, uncompiled):
    def run(key):
        return solvers.sample(key, rippled.denoiser(), x_init, solvers.gm_sde(1), times())

    key = jax.random.key(7)
    one = run(key)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(6))
    np.testing.assert_array_equal(one, run(keys))
    # Keys of the old style too.
    np.testing.assert_array_equal(one, run(jax.random.key_data(key)))
    assert np.abs(one - run(jax.random.key(8))).max() > 0.1


def test_every_step_draws_new_noise(rippled, x_init):
    # With x_0 = 0 a step adds only noise; the noise of two steps must not be proportional.
    denoise = flow.denoiser(lambda x, t: x / t)
    t = np.array([1.0, 0.9, 0.8])
    x = solvers.sample(jax.random.key(0), denoise, x_init, solvers.ddpm(), t, True)
    x = np.asarray(x)
    kept = (t[1:] / t[:-1]) ** 2 * (1 - t[:-1]) / (1 - t[1:])
    first, second = (x[i + 1] - kept[i] * x[i] for i in range(2))
    assert np.ptp(first / second) > 1


def test_a_trajectory_begins_at_x_init_and_ends_in_the_sample(rippled, x_init, solver, uncompiled):
    args = (jax.random.key(1), rippled.denoiser(), x_init, solver, times())
    states = solvers.sample(*args, return_trajectory=True)
    assert states.shape == (4, *x_init.shape)
    np.testing.assert_array_equal(states[0], x_init)
    np.testing.assert_array_equal(states[-1], solvers.sample(*args))


def test_a_loop_over_steps_equals_sample(rippled, x_init, keys, uncompiled):
    denoise = rippled.denoiser()
    for name, build in ALL.items():
        solver = build()
        x, state = x_init, solver.init(denoise, x_init)
        for i, (t, s) in enumerate(zip(times()[:-1], times()[1:], strict=True)):
            step_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, i)
            x, state = solver.step(step_keys, denoise, x, t, s, state)
        expected = solvers.sample(keys, denoise, x_init, solver, times())
        np.testing.assert_allclose(x, expected, atol=1e-6, err_msg=name)


def test_a_step_may_have_one_time_for_each_sample(rippled, x_init, uncompiled):
    def denoise(x, t):
        return jax.tree.map(
            lambda leaf: leaf[:, 0] if leaf.ndim > 1 else leaf,
            jax.vmap(lambda x, t: rippled.denoiser()(x[None], t))(x, jnp.broadcast_to(t, x.shape[:1])),
        )

    t, s = jnp.full(6, 0.7), jnp.full(6, 0.3)
    noise = jnp.ones_like(x_init)
    draws = solvers.Draws(jnp.arange(6) % 4, noise, noise)
    for name, build in ALL.items():
        solver = build()
        state = solver.init(denoise, x_init)
        each, _ = solver.step(draws, denoise, x_init, t, s, state)
        one, _ = solver.step(draws, denoise, x_init, t[0], s[0], state)
        np.testing.assert_allclose(each, one, atol=1e-6, err_msg=name)


def test_order_of_components_does_not_matter(rippled, x_init, uncompiled):
    order = np.array([2, 0, 3, 1])
    params = rippled.params

    def permuted(x, t):
        q = rippled.denoiser()(x, t)
        return type(q)(q.means[..., order, :], q.log_weights[..., order], q.log_std)

    component = np.random.default_rng(0).integers(0, 4, (3, 6))
    normal = jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 6, 2)), jnp.float32)
    for name in ("gm_ode_1", "gm_ode_2", "gm_sde_1", "gm_sde_2"):
        found = [
            solvers.sample(solvers.Draws(jnp.asarray(index), *normal), denoise, x_init, ALL[name](), times())
            for index, denoise in (
                (component, rippled.denoiser(params)),
                (np.argsort(order)[component], permuted),
            )
        ]
        np.testing.assert_allclose(found[0], found[1], atol=2e-6, err_msg=name)


def test_scales_seeds_and_times_neither_recompile_nor_transfer(guided, x_init):
    traces = []

    @jax.jit
    def run(key, x, scale, times):
        traces.append(1)
        return solvers.sample(key, guided(scale), x, solvers.gm_sde(2), times)

    arguments = [
        jax.device_put((jax.random.key(seed), x_init, jnp.float32(scale), times))
        for seed, scale, times in ((0, 0.1, times()), (1, 0.7, flow.time_grid(3, shift=2.0)))
    ]
    with jax.transfer_guard("disallow"):
        first, second = (run(*args) for args in arguments)
    assert len(traces) == 1
    assert np.abs(first - second).max() > 0.1


@pytest.mark.parametrize("name", ["gm_ode_2", "gm_sde_2", "ab2"])
def test_bfloat16_is_computed_in_float32(rippled, x_init, name, uncompiled):
    # The network may compute in bfloat16; states and mixtures are float32.
    half = x_init.astype(jnp.bfloat16)
    seen = []

    def velocity(x, t):
        seen.append(x.dtype)
        q = rippled.velocity(x, t)
        return jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), q)

    key = jax.random.key(0)
    x = solvers.sample(key, flow.denoiser(velocity), half, ALL[name](), times())
    assert x.dtype == jnp.float32 and set(seen) == {jnp.dtype(jnp.float32)}
    full = half.astype(jnp.float32)
    again = solvers.sample(key, flow.denoiser(velocity), full, ALL[name](), times())
    np.testing.assert_array_equal(x, again)


def test_one_network_call_a_step(rippled, x_init, solver, uncompiled):
    calls = []

    def denoise(x, t):
        calls.append(not isinstance(x, jax.core.Tracer))
        return rippled.denoiser()(x, t)

    solvers.sample(jax.random.key(0), denoise, x_init, solver, times())
    assert sum(calls) == 3


def test_one_substep_at_order_2(rippled, x_init, uncompiled):
    # Euler on the extrapolated mean.
    denoise, solver = rippled.denoiser(), solvers.gm_ode(2, 1)
    states = solvers.sample(None, denoise, x_init, solver, times(), return_trajectory=True)
    memory = solvers.Memory(denoise(x_init, times()[0]), x_init, times()[0], times()[0] - times()[1])
    q = solvers.second_order(denoise(states[1], times()[1]), memory, states[1], *times()[1:3])
    euler = solvers.euler()
    expected, _ = euler.step(None, lambda *_: q, states[1], *times()[1:3], ())
    np.testing.assert_allclose(states[2], expected, atol=1e-6)


def test_guidance_of_scale_0_is_no_guidance(guided, rippled, x_init, uncompiled):
    for name in ("gm_ode_2", "gm_sde_2"):
        key = jax.random.key(0)
        found = solvers.sample(key, guided(0.0), x_init, ALL[name](), times())
        expected = solvers.sample(key, rippled.denoiser(), x_init, ALL[name](), times())
        np.testing.assert_allclose(found, expected, atol=2e-6)


def test_guidance_interval_keeps_one_structure(rippled, x_init):
    # Outside the interval the prediction is still `Guided`, so that one scan contains both.
    uncond = flow.denoiser(lambda x, t: x)
    denoise = guidance.guided_denoiser(rippled.denoiser(), uncond, 0.5, interval=(0.5, 0.8))
    states = solvers.sample(None, denoise, x_init, solvers.gm_ode(1, 2), times(), True)
    plain = solvers.sample(None, rippled.denoiser(), x_init, solvers.gm_ode(1, 2), times(), True)
    np.testing.assert_allclose(states[1], plain[1], atol=1e-6)
    assert np.abs(states[2] - plain[2]).max() > 1e-2
