"""Denoisers of networks in other conventions: what they predict, their time, and their noise schedule."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from gmflow_jax import flow, gm, solvers
from tests.helpers import all_finite, assert_message_names, assert_trees_close

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")

MEANS, WEIGHTS, VAR = np.asarray([[-1.5, 0.5], [1.0, 0.3]]), np.asarray([0.6, 0.4]), 0.09
LINEAR = lambda tau: -0.25 * 19.9 * tau**2 - 0.05 * tau  # noqa: E731  (log alpha)
SCHEDULES = {
    "cosine": (lambda tau: jnp.cos(jnp.pi / 2 * tau), lambda tau: jnp.sin(jnp.pi / 2 * tau)),
    "linear": (lambda tau: jnp.exp(LINEAR(tau)), lambda tau: jnp.sqrt(-jnp.expm1(2 * LINEAR(tau)))),
    "data at 1": (lambda tau: tau**2, lambda tau: 1 - tau),
}
COS, SIN = SCHEDULES["cosine"]


def exact(x, a, s):
    """The mixture over x_0 at x = a x_0 + s noise, for a scalar a and s > 0."""
    means, spread = MEANS.astype(x.dtype), s**2 + a**2 * VAR
    off = x[..., None, :] - a * means[None]
    log_weights = np.log(WEIGHTS).astype(x.dtype)[None] - 0.5 * jnp.sum(off**2, -1) / spread
    log_std = 0.5 * jnp.log(VAR * s**2 / spread)
    return gm.GaussianMixture(means[None] + a * VAR / spread * off, jax.nn.log_softmax(log_weights), log_std)


def predictions(alpha, sigma):
    """The exact network of each kind on x = alpha x_0 + sigma noise; each is p x + r x_0."""

    def network(kind):
        def predict(x, tau):
            (a, da), (s, ds) = (jax.jvp(f, (tau,), (jnp.ones_like(tau),)) for f in (alpha, sigma))
            of_x, of_x_0 = {
                "x_0": (0 * a, 1 + 0 * a),
                "noise": (1 / s, -a / s),
                "score": (-1 / s**2, a / s**2),
                "v": (a / s, -(a**2) / s - s),
                "velocity": (ds / s, da - ds * a / s),
            }[kind]
            q = exact(x, a, s)
            means = of_x * x[:, None] + of_x_0 * q.means
            return dataclasses.replace(q, means=means, log_std=q.log_std + jnp.log(jnp.abs(of_x_0)))

        return predict

    return network


STRAIGHT = predictions(lambda t: 1 - t, lambda t: t)
KINDS = ("velocity", "x_0", "noise", "score", "v")


@pytest.fixture
def x_t(random_state):
    return random_state(0, 4, 2)


def assert_exact(denoise, x_t, times, atol):
    """Compare with the exact mixture, relative to the growth 1 / (1 - t) of a prediction's rounding."""
    for t in map(jnp.float32, times):
        tolerance = atol / max(1 - t, 1e-3)
        assert_trees_close(values(denoise(x_t, t)), values(exact(x_t, 1 - t, t)), rtol=0, atol=tolerance)


def values(q):
    return q.means, jnp.exp(q.log_weights), jnp.exp(q.log_std)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_exact_mixture(kind, x_t):
    denoise = jax.jit(flow.denoiser(STRAIGHT(kind), predicts=kind))
    assert_exact(denoise, x_t, (0.01, 0.3, 0.9, 0.999, 1.0), atol=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", KINDS)
def test_schedules_give_the_exact_mixture(kind, name, x_t):
    """The linear schedule ends at sigma / alpha = 152, t = 0.9935."""
    network = predictions(*SCHEDULES[name][:2])(kind)
    denoise = jax.jit(flow.denoiser(network, predicts=kind, schedule=SCHEDULES[name]))
    assert_exact(denoise, x_t, (0.03, 0.3, 0.9, 0.98), atol=4e-6)
    end = denoise(x_t, jnp.ones(()))
    np.testing.assert_allclose(gm.mean(end), np.tile(WEIGHTS @ MEANS, (4, 1)), atol=0.02)


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_of_time_passes_through_a_schedule(kind, x_t):
    network = predictions(COS, SIN)(kind)
    denoise = flow.denoiser(network, predicts=kind, schedule=(COS, SIN))
    slope = lambda f: jax.jit(jax.grad(lambda t: gm.mean(f(t)).sum()))(0.4)  # noqa: E731
    found, expected = slope(lambda t: denoise(x_t, t)), slope(lambda t: exact(x_t, 1 - t, t))
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("schedule", [None, (COS, SIN), SCHEDULES["linear"]], ids=["", "cosine", "linear"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_ends_are_finite(kind, schedule, x_t):
    """Values and gradients, where the network itself divides by t^2; at t = 0, x_0 = x_t."""
    network = (predictions(*schedule) if schedule else STRAIGHT)(kind)
    if kind == "x_0" or (kind == "velocity" and schedule is None):  # called at t = 0 itself
        network = lambda x, t: x * (1 + 0 * t)  # noqa: E731
    for function in (network, lambda x, t: x):
        denoise = flow.denoiser(function, predicts=kind, schedule=schedule)

        @jax.jit
        def both(x, t):
            total = lambda x, t: gm.mean(denoise(x, t)).sum() + jnp.exp(denoise(x, t).log_std).sum()  # noqa: B023, E731
            return denoise(x, t), jax.grad(total, argnums=(0, 1))(x, t)  # noqa: B023

        for t in (0.0, 1e-6, 1.0 - 1e-6, 1.0):
            q, gradients = both(x_t, jnp.float32(t))
            assert all_finite((q.means, q.log_weights, jnp.exp(q.log_std), gradients)), t
            if t == 0:
                np.testing.assert_allclose(q.means, np.broadcast_to(x_t[:, None], q.means.shape), atol=1e-6)
                assert kind == "x_0" or np.all(np.isneginf(q.log_std))


def test_arrays_have_one_standard_deviation_in_every_convention(x_t):
    """K = 1 with log_std = log t, whatever the array predicts."""
    for kind in KINDS:
        network = STRAIGHT(kind)
        q = flow.denoiser(lambda x, t: gm.mean(network(x, t)), predicts=kind)(x_t, jnp.float32(0.3))  # noqa: B023
        np.testing.assert_allclose(q.means[:, 0], gm.mean(exact(x_t, 0.7, 0.3)), atol=1e-6)
        np.testing.assert_allclose(q.log_std, np.log(0.3), rtol=1e-6)


def test_time_and_direction(x_t, random_mixture):
    """The network sees scale * s [B] with s = 1 - t, and its velocity is x_0 - noise."""
    u, seen = random_mixture(1, (4,), 3, 2), []

    def network(x, s):
        seen.append(s)
        return dataclasses.replace(u, means=-u.means)

    denoise = flow.denoiser(network, reversed_time=True, time_shape="batch", scale=1000)
    for t in (jnp.float32(0.25), jnp.full(4, 0.25)):
        expected = flow.denoiser(velocity_fn=lambda x, t: u)(x_t, t)
        jax.tree.map(np.testing.assert_array_equal, denoise(x_t, t), expected)
        np.testing.assert_array_equal(seen[-1], np.full(4, 750.0))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
@pytest.mark.parametrize("kind", KINDS)
def test_networks_see_the_dtype_of_the_state(kind, dtype, x_t):
    def network(x, t):
        assert x.dtype == t.dtype == dtype
        return x / (1 + t)

    for schedule in (None, (COS, SIN)):
        denoise = flow.denoiser(network, predicts=kind, schedule=schedule)
        for t in (0.0, 0.5, 1.0):
            q = denoise(x_t.astype(dtype), jnp.asarray(t, dtype))
            assert q.means.dtype == q.log_std.dtype == jnp.float32
            assert all_finite((q.means, jnp.exp(q.log_std)))


def ddpm_tables():
    alphas_squared = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000, dtype=np.float32))
    return np.sqrt(alphas_squared), np.sqrt(1 - alphas_squared)


def test_a_table_of_steps(x_t):
    """The network gets the index of a step, where the answer is exact, and a fraction between two."""
    tables = ddpm_tables()
    alpha, sigma = (lambda i, v=v: jnp.interp(i, jnp.arange(1000.0), jnp.float32(v)) for v in tables)
    seen = []

    def network(x, index):
        seen.append(index)
        return predictions(alpha, sigma)("noise")(x, index)

    denoise = flow.denoiser(network, predicts="noise", schedule=tables)
    for i in (30, 500):
        t = np.float32(tables[1][i] / (tables[0][i] + tables[1][i]))
        found, expected = denoise(x_t, jnp.asarray(t)), exact(x_t, 1 - t, t)
        assert_trees_close(values(found), values(expected), rtol=0, atol=4e-6)
        np.testing.assert_allclose(seen[-1], i, atol=1e-2)


def test_a_table_may_fall_be_traced_and_meet_times_that_are_split(x_t):
    """The index of a step is that of the known, rising table on one device, also for a state in bfloat16."""
    tables, seen = ddpm_tables(), []

    def index(x, t, schedule=tables):
        flow.denoiser(lambda x, i: (seen.append(i), x)[1], "noise", schedule=schedule)(x, t)
        return seen[-1]

    t = jnp.asarray([0.9, 0.5, 0.1, 1.0])
    expected = np.interp(t, tables[1] / sum(tables), np.arange(1000.0))
    np.testing.assert_allclose(index(x_t, t), expected, rtol=1e-4)
    falling = jax.jit(lambda *schedule: index(x_t, t, schedule))(*(table[::-1] for table in tables))
    np.testing.assert_allclose(falling, 999 - expected, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(index(x_t.astype(jnp.bfloat16), 0.9), expected[0], rtol=1e-4)
    mesh = jax.make_mesh((4,), ("data",))  # Explicit axes
    split = jax.device_put((x_t, t), NamedSharding(mesh, PartitionSpec("data")))
    with jax.set_mesh(mesh):
        found = index(*split)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert found.sharding.spec == PartitionSpec("data")


@pytest.mark.parametrize("kind", ["noise", "score"])
def test_networks_in_half_precision_keep_away_from_pure_noise(kind, x_t):
    """Their rounding would be divided by 3.5e-4, the margin of float32."""
    for schedule in (None, (COS, SIN)):
        exact_network = (predictions(*schedule) if schedule else STRAIGHT)(kind)
        half = lambda x, t: gm.mean(exact_network(x, t)).astype(jnp.bfloat16)  # noqa: B023, E731
        denoise = flow.denoiser(half, predicts=kind, schedule=schedule)
        found = gm.mean(denoise(x_t, jnp.ones(())))
        np.testing.assert_allclose(found, np.tile(WEIGHTS @ MEANS, (4, 1)), atol=0.3)


@pytest.mark.parametrize("name", ["heun", "gm_ode", "gm_sde"])
def test_a_variance_preserving_network_gives_the_same_samples(name, random_state):
    """The same solver, noise and key give the samples of the exact velocity."""
    solver, noise = solvers.by_name(name, num_substeps=2), random_state(2, 64, 2)
    run = lambda denoise: solvers.sample(jax.random.key(0), denoise, noise, solver, flow.time_grid(6))  # noqa: E731
    expected = run(flow.denoiser(STRAIGHT("velocity")))
    found = run(flow.denoiser(predictions(COS, SIN)("noise"), predicts="noise", schedule=(COS, SIN)))
    np.testing.assert_allclose(found, expected, atol=3e-3)


def test_aux_is_passed_on(x_t):
    for kind in ("velocity", "noise"):
        q, aux = flow.denoiser(lambda x, t: (x, {"t": t}), predicts=kind)(x_t, jnp.float32(0.5))
        assert isinstance(q, gm.GaussianMixture) and aux["t"] == 0.5


NET = lambda x, t: x  # noqa: E731
REFUSED = {
    "no function": (lambda: flow.denoiser(None), ("NoneType", "(x_t, t)")),
    "predicts": (lambda: flow.denoiser(NET, predicts="eps"), ("'eps'", "'noise'")),
    "reversed_time": (lambda: flow.denoiser(NET, reversed_time="no"), ("'no'", "True")),
    "time_shape": (lambda: flow.denoiser(NET, time_shape="vector"), ("'vector'", "'batch'")),
    "scale": (lambda: flow.denoiser(NET, scale=-1.0), ("-1.0", "positive")),
    "text as scale": (lambda: flow.denoiser(NET, scale="1000"), ("'1000'", "finite")),
    "directions": (lambda: flow.denoiser(NET, reversed_time=True, schedule=(COS, SIN)), ("reversed_time",)),
    "name of a schedule": (lambda: flow.denoiser(NET, schedule="cosine"), ("(str)", "alpha, sigma")),
    "math": (lambda: flow.denoiser(NET, schedule=(math.cos, math.sin)), ("jax.numpy",)),
    "one table": (lambda: flow.denoiser(NET, schedule=(np.ones(5), SIN)), ("ndarray, function",)),
    "lengths": (lambda: flow.denoiser(NET, "v", schedule=(np.ones(5), np.ones(4))), ("5 and 4",)),
    "not monotone": (lambda: flow.denoiser(NET, schedule=(COS, COS)), ("0.5 to 0.5", "steadily")),
    "no prediction": (lambda: flow.denoiser(lambda x, t: None)(np.ones((2, 3)), 0.5), ("NoneType",)),
    "a dict": (lambda: flow.denoiser(lambda x, t: {"u": x}, "noise")(np.ones((2, 3)), 0.5), ("dict",)),
    "scale of an index": (lambda: flow.denoiser(NET, scale=2.0, schedule=ddpm_tables()), ("2.0", "index")),
    "velocity of an index": (lambda: flow.denoiser(NET, schedule=ddpm_tables()), ("'velocity'", "functions")),
    "integers": (lambda: flow.denoiser(NET, "noise")(np.ones((2, 3), int), 0.5), ("int64", "astype")),
    "a list": (lambda: flow.denoiser(NET)([[1.0]], 0.5), ("x_t", "list")),
    "times": (lambda: flow.denoiser(NET, time_shape="batch")(np.ones((2, 3)), jnp.ones(3)), ("(3,)",)),
    "channels": (lambda: flow.denoiser(lambda x, t: x[:, 1:], "v")(np.ones((2, 3)), 0.5), ("(2, 2)",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused(name):
    call, given = REFUSED[name]
    with pytest.raises(ValueError) as error:
        call()
    assert_message_names(error, *given)
