"""Changes of variable and transitions: golden data, closed forms, limits of the time interval."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm
from tests.helpers import (
    assert_computes_bfloat16_in_float32,
    assert_message_names,
    assert_trees_close,
    call_each,
    relative_error,
)

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")


@jax.jit
def changes_of_variable(mixture, gaussian, array, x_t, t):
    mixture, gaussian, array = (flow.to_data(p, x_t, t) for p in (mixture, gaussian, array))
    return {
        "means": mixture.means,
        "log_weights": mixture.log_weights,
        "log_std": mixture.log_std[:, 0, 0],
        "gauss_mean": gaussian.mean,
        "gauss_var": gaussian.var,
        "sample": array,
    }


@jax.jit
def transitions(prediction, point, x_t, x_s, x_0, noise, t, s):
    """Return the golden transitions by name, and log_std for each kind of prediction."""
    out, log_std = {}, {}
    for kind in ("x0", "u"):
        read = (lambda p: p) if kind == "x0" else (lambda p: flow.to_data(p, x_t, t))
        q, law_of_point = read(prediction), gm.Gaussian(read(point), jnp.zeros((), x_t.dtype))
        law = flow.reverse_transition(q, x_t, t, s)
        out |= {f"reverse_{kind}_means": law.means, f"reverse_{kind}_log_weights": law.log_weights}
        log_std[kind] = law.log_std[:, 0, 0], q.log_std[:, 0, 0]
        # A point prediction with its noise is the mixture of one point mass.
        law = flow.reverse_transition(law_of_point, x_t, t, s)
        out[f"reverse_sample_{kind}"] = law.means[..., 0, :] + jnp.exp(law.log_std)[..., None] * noise
    out["forward_x_t_high"] = flow.forward_transition(x_s, noise, s, t)
    out["forward_diffusion_x_t"] = flow.interpolate(x_0, noise, t)
    return out, log_std


@pytest.mark.parametrize("file", ["flow_a.npz", "flow_b.npz"])
def test_golden(file, read, precision):
    dtype, suffix, tolerance = precision
    get = read(file, dtype)
    gaussian = gm.Gaussian(get("u2x_u_gauss_mean"), get("u2x_u_gauss_var"))
    predictions = get("u2x_u_", mixture=True), gaussian, get("u2x_u")
    for name, ours in changes_of_variable(*predictions, get("u2x_x_t"), get("u2x_sigma")).items():
        assert relative_error(ours, get(f"u2x_out_x0_{name}{suffix}")) < tolerance, name
    states = (get(f"tr_{k}") for k in ("pred_sample", "x_t_high", "x_t_low", "x_0", "noise"))
    times = get("tr_sigma_high"), get("tr_sigma_low")
    results, log_stds = transitions(get("tr_pred_", mixture=True), *states, *times)
    for name, ours in results.items():
        assert relative_error(ours, get(f"tr_out_{name}{suffix}")) < tolerance, name
    for kind, (exact, of_x_0) in log_stds.items():
        # The authors floor the variance of p(x_s | x_t, x_0) at 1e-6. It bites at s = 0 (the first two
        # entries); there x_s is x_0, so that the law of x_0 itself is the answer.
        floored = np.asarray(get(f"tr_out_reverse_{kind}_log_std{suffix}"))
        assert relative_error(exact[2:], floored[2:]) < tolerance
        assert relative_error(exact[:2], of_x_0[:2]) < tolerance
        with_floor = np.logaddexp(2 * np.asarray(of_x_0[:2]), np.log(1e-6)) / 2
        assert relative_error(with_floor, floored[:2]) < tolerance


def test_golden_step_coefficients(read):
    """Factors of x_t, x_0 and noise in each of 8 steps."""
    expected = read("schedules.npz", np.float32)("sde_coefs_mean_small")
    times = flow.time_grid(8)
    one, zero = jnp.ones((8, 1)), jnp.zeros((8, 1))

    def law(x_t, x_0):
        q = gm.GaussianMixture(x_0[:, None], jnp.zeros((8, 1)), jnp.asarray(-jnp.inf))
        return flow.reverse_transition(q, x_t, times[:-1], times[1:])

    from_x_t, from_x_0 = law(one, zero), law(zero, one)
    std = jnp.exp(from_x_0.log_std)
    ours = jnp.stack([from_x_t.means[:, 0, 0], from_x_0.means[:, 0, 0], std], axis=1)
    assert relative_error(ours, expected) < 3e-7


@pytest.mark.parametrize("t", [1.0, 0.3, 1e-3, 1e-5])
def test_to_velocity_undoes_to_data(t, random_mixture, random_state):
    """Within the rounding of x_0 divided by t; for a given x_0 it is accurate to rounding."""
    u, x_t = random_mixture(0, (4,), 3, 2), random_state(1, 4, 2)
    predictions = (u, gm.Gaussian(gm.mean(u), jnp.linspace(0.5, 2.0, 4)), random_state(2, 4, 2))
    there = jax.jit(lambda p: [flow.to_data(v, x_t, t) for v in p])(predictions)
    back = jax.jit(lambda p: [flow.to_velocity(v, x_t, t) for v in p])(there)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(predictions), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=3e-7 / t)
    x_0 = np.asarray(there[2], np.float64)
    exact = (np.asarray(x_t, np.float64) - x_0) / np.float64(np.float32(t))
    np.testing.assert_allclose(back[2], exact, rtol=3e-7, atol=1e-30)
    np.testing.assert_allclose(back[0].means[:, 0], (x_t - there[0].means[:, 0]) / np.float32(t), rtol=3e-7)


def test_forward_transitions_compose(x64, random_state):
    """x_t from x_s has the law of x_t from x_0: mean (1 - t) x_0 and variance t^2."""
    s, t = 0.3, 0.8
    x_0, zero = random_state(3, 1, 2), jnp.zeros((1, 2))
    x_s = flow.interpolate(x_0, zero, s)
    np.testing.assert_allclose(flow.forward_transition(x_s, zero, s, t), (1 - t) * x_0, rtol=1e-14)
    own = flow.forward_transition(zero, jnp.ones((1, 2)), s, t)
    inherited = flow.forward_transition(jnp.full((1, 2), s), zero, s, t)
    np.testing.assert_allclose(own**2 + inherited**2, t**2, rtol=1e-14)


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.5), (0.7, 0.2), (0.05, 0.049), (1.0, 0.0)])
def test_reverse_transition_by_bayes_rule(x64, random_mixture, t, s):
    """q(x_s | x_t) is proportional to p(x_t | x_s) times the density of x_s, for data that is a mixture.

    The posterior of x_0 comes from the likelihood p(x_t | x_0), both sides from numpy.
    """
    data, x_t = random_mixture(4, (), 3, 1, np.float64), np.asarray([0.4])
    means, weights = np.asarray(data.means)[:, 0], np.exp(np.asarray(data.log_weights))
    var = np.exp(2 * float(data.log_std))
    at_t = (1 - t) ** 2 * var + t**2
    # Component-wise regression of x_0 on x_t.
    gain = (1 - t) * var / at_t
    posterior_weights = weights * np.exp(-((x_t[0] - (1 - t) * means) ** 2) / (2 * at_t))
    q = gm.GaussianMixture(
        jnp.asarray(means + gain * (x_t[0] - (1 - t) * means))[:, None],
        jnp.log(jnp.asarray(posterior_weights / posterior_weights.sum())),
        0.5 * jnp.log(jnp.asarray(var * t**2 / at_t)),
    )
    ours = jax.jit(flow.reverse_transition)(q, jnp.asarray(x_t), t, s)
    x = np.asarray(ours.means)[:, 0] + np.exp(float(ours.log_std)) * np.linspace(-3, 3, 41)[:, None]
    x = x.reshape(-1, 1)
    k, at_s = (1 - t) / (1 - s), (1 - s) ** 2 * var + s**2
    density_s = np.exp(-((x - (1 - s) * means) ** 2) / (2 * at_s)) @ weights
    log_density = np.log(density_s) - (x_t - k * x)[:, 0] ** 2 / (2 * (t**2 - (k * s) ** 2))
    assert np.ptp(jax.jit(gm.log_prob)(ours, jnp.asarray(x)) - log_density) < 1e-9


def test_limits_of_the_time_interval(random_mixture, random_state):
    q, x_t, noise = random_mixture(5, (4,), 3, 2), random_state(6, 4, 2), random_state(7, 4, 2)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-6)  # noqa: E731
    same(flow.interpolate(x_t, noise, 0.0), x_t)
    same(flow.interpolate(x_t, noise, 1.0), noise)
    same(flow.forward_transition(x_t, noise, 0.4, 1.0), noise)
    same(flow.forward_transition(x_t, noise, 0.0, 0.0), x_t)
    for leaf, expected in zip(
        jax.tree.leaves(flow.reverse_transition(q, x_t, 0.6, 0.0)), jax.tree.leaves(q), strict=True
    ):
        same(leaf, expected)
    # At s = t the state does not move: in the limit, and at t = 0, where every step ends.
    reverse = jax.jit(flow.reverse_transition)
    for t in (0.0, 0.6, 1.0 - 1e-6):
        stay = reverse(q, x_t, t, t)
        same(stay.means, np.broadcast_to(x_t[:, None], (4, 3, 2)))
        assert np.all(np.exp(stay.log_std) == 0)


FUNCTIONS = {
    "interpolate": lambda q, x, y, t, s: flow.interpolate(x, y, t),
    "forward_transition": lambda q, x, y, t, s: flow.forward_transition(x, y, s, t),
    "to_data": lambda q, x, y, t, s: flow.to_data(q, x, t),
    "to_velocity": lambda q, x, y, t, s: flow.to_velocity(q, x, t),
    "reverse_transition": lambda q, x, y, t, s: flow.reverse_transition(q, x, t, s),
    "posterior": lambda q, x, y, t, s: flow.posterior(q, x, t, y, s),
}
all_functions = jax.jit(partial(call_each, FUNCTIONS))
ROUNDING = dict(rtol=1e-5, atol=1e-6)


@pytest.fixture
def case(random_mixture, random_state):
    q = random_mixture(8, (3, 2), 4, 3, log_std=np.full((3, 1), -0.5))
    times = jnp.asarray([1.0, 0.5, 0.02]), jnp.asarray([0.7, 0.0, 0.01])
    return q, random_state(9, 3, 2, 3), random_state(10, 3, 2, 3), *times


def test_eager_jitted_looped_and_vmapped_agree(case):
    batched = all_functions(*case)
    assert_trees_close(call_each(FUNCTIONS, *case), batched, **ROUNDING)
    for i in range(3):
        # A time that all samples share is a scalar.
        *alone, t, s = jax.tree.map(lambda v, i=i: v[i : i + 1], case)
        of_batch = jax.tree.map(lambda v, i=i: v[i : i + 1], batched)
        assert_trees_close(all_functions(*alone, t[0], s[0]), of_batch, **ROUNDING)
    assert_trees_close(jax.jit(jax.vmap(all_functions))(*case), batched, **ROUNDING)


def test_bfloat16_is_computed_in_float32(case):
    assert_computes_bfloat16_in_float32(all_functions, case, **ROUNDING)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_extremes_are_finite(name, random_mixture, random_state):
    """Values and gradients, of the times too, over times x spreads with a weight of 1e-30."""
    t = np.asarray([0, 1e-6, 1e-6, 1e-6, 1 - 1e-6, 1 - 1e-6, 1 - 1e-6, 1, 1, 1], np.float32)
    s = np.asarray([0, 0, 0.5, 1 - 1e-6, 0, 0.5, 1 - 1e-6, 0, 0.5, 1 - 1e-6], np.float32) * t
    log_std = np.asarray([-np.inf, -12.0, 0.0, 4.0], np.float32)
    n = len(t) * len(log_std)
    t, s, log_std = np.repeat(t, 4), np.repeat(s, 4), np.tile(log_std, len(t))
    q = random_mixture(14, (n,), 3, 2, log_std=log_std)
    tiny = jnp.log(jnp.asarray([1.0, 1e-30, 1e-12]))
    q = gm.GaussianMixture(q.means, jnp.broadcast_to(tiny, (n, 3)), q.log_std)

    def total(q, x, y, t, s):
        result = FUNCTIONS[name](q, x, y, t, s)
        if isinstance(result, gm.GaussianMixture):
            result = gm.mean(result), jnp.exp(result.log_std), jnp.exp(result.log_weights) ** 2
        return sum(jnp.sum(leaf, axis=tuple(range(1, leaf.ndim))) for leaf in jax.tree.leaves(result))

    arguments = q, random_state(15, n, 2), random_state(16, n, 2), jnp.asarray(t), jnp.asarray(s)

    @jax.jit
    def both(*arguments):
        value, pull_back = jax.vjp(total, *arguments)
        return value, pull_back(jnp.ones(n))

    value, gradient = both(*arguments)
    assert np.all(np.isfinite(value))
    for leaf in jax.tree.leaves(gradient):
        bad = ~np.isfinite(np.asarray(leaf)).reshape(n, -1).all(-1)
        assert not bad.any(), np.stack([t, s, log_std], axis=1)[bad]


def test_denoiser_reads_arrays_as_mixtures_of_one_component(random_state):
    velocity, x_t = random_state(17, 4, 2), random_state(18, 4, 2)
    q = flow.denoiser(lambda x, t: velocity)(x_t, jnp.asarray(0.3))
    np.testing.assert_allclose(q.means[:, 0], x_t - 0.3 * velocity, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jnp.exp(q.log_std), 0.3, rtol=1e-6)
    assert q.log_weights.shape == (4, 1) and np.all(q.log_weights == 0)


def test_denoiser_converts_mixtures(random_mixture, random_state):
    u, x_t, t = random_mixture(19, (4,), 3, 2), random_state(20, 4, 2), jnp.linspace(0.1, 1.0, 4)
    ours, expected = flow.denoiser(lambda x, t: u)(x_t, t), flow.to_data(u, x_t, t)
    jax.tree.map(np.testing.assert_array_equal, ours, expected)


Q = gm.GaussianMixture(np.zeros((2, 3, 4)), np.full((2, 3), -np.log(3.0)), np.zeros(2))
X = np.ones((2, 4))
REFUSED = {
    "s > t": (lambda: flow.forward_transition(X, X, 0.5, 0.4), ("0.5", "0.4")),
    "s = t": (lambda: flow.reverse_transition(Q, X, 0.5, 0.5), ("s = 0.5", "t = 0.5")),
    "s > t for one": (lambda: flow.reverse_transition(Q, X, np.array([0.5, 0.1]), 0.2), ("0.1", "0.2")),
    "s > t in the posterior": (lambda: flow.posterior(Q, X, 0.3, X, 0.4), ("0.3", "0.4")),
    "rank of t": (lambda: flow.to_data(Q, X, np.full((2, 1), 0.3)), ("(2, 1)", "scalar")),
    "rank of s": (lambda: flow.posterior(Q, X, 0.5, X, np.full((2, 1), 0.3)), ("s has", "(2, 1)")),
    "length of t": (lambda: flow.interpolate(X, X, np.full(3, 0.3)), ("(3,)", "(2,)")),
    "noise": (lambda: flow.interpolate(X, np.ones((2, 3)), 0.3), ("noise (2, 3)", "x_0 (2, 4)")),
    "noise of a step": (lambda: flow.forward_transition(X, np.ones(4), 0.1, 0.3), ("(4,)", "(2, 4)")),
    "channels": (lambda: flow.to_data(Q, np.ones((2, 3)), 0.3), ("(2, 4)", "(2, 3)")),
    "velocity": (lambda: flow.to_velocity(X, np.ones((2, 5)), 0.3), ("(2, 4)", "(2, 5)")),
    "x_s": (lambda: flow.posterior(Q, X, 0.3, np.ones((2, 5)), 0.1), ("x_s (2, 5)",)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_wrong_arguments_are_refused(name):
    call, given = REFUSED[name]
    with pytest.raises(ValueError) as error:
        call()
    assert_message_names(error, *given)
