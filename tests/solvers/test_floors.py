"""Where the authors' floors act, our value is exact: shown in float64 by separate numpy code.

The emulation below follows their formulas with the floor under the variance differences as a
parameter. With their 1e-6 it gives their trajectories; with 1e-30, which never acts, ours. Nothing else
differs. Measured agreement: 8e-15 of max(1, |x|).
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, solvers
from tests.helpers import relative_error

CASES = [
    ("img_ode", "o2_s8x4_w0_shift3"),
    ("img_ode", "o2_s6x8_w0_shift3_corr2"),
    ("pts_ode", "o2_s8x4_w0_shift1"),
    ("pts_sde", "o2_s8x1_w0_shift1_sample"),
]


def normalised(logits):
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def times_gaussian(q, mean, var, floor):
    """A mixture (means, log-weights, variance) times N(mean, var)."""
    means, log_weights, v = q
    total = np.maximum(var + v, floor)
    distance = np.sum((means - mean[..., None, :]) ** 2, -1)
    weights = normalised(log_weights - distance / (2 * total))
    share = np.asarray(v / total)[..., None]
    return means + share * (mean[..., None, :] - means), np.log(weights), v * var / total


def mean_of(q):
    return np.sum(np.exp(q[1])[..., None] * q[0], axis=-2)


def posterior_mean(q, x, sigma, x_target, target, floor):
    a, b = (1 - target) * sigma, (1 - sigma) * target
    d = max(a**2 - b**2, floor)
    mean = (a * sigma * x_target - b * target * x) / d
    return mean_of(times_gaussian(q, mean, (sigma * target) ** 2 / d, floor))


def reweighted(q, m, v, shift, floor):
    """The mask N(m + shift, v (1 - P / v)) / N(m, v) as a quotient Gaussian, P the power of the shift."""
    power = np.mean(shift**2, axis=(1, 2, 3)).reshape(-1, 1, 1, 1)
    shift = shift * np.sqrt(np.minimum(v / np.maximum(power, floor), 1))
    v_new = v * np.maximum(1 - power / v, 1e-6)
    d = np.maximum(v - v_new, floor)
    quotient = (v * (m + shift) - v_new * m) / d, v * v_new / d
    return times_gaussian(q, quotient[0], quotient[1], floor), shift


def second_order(q, previous, x, sigma, h, correction_steps, floor):
    q_prev, x_prev, sigma_prev, h_prev = previous
    m = mean_of(q)
    deviation = np.mean((q[0] - m[..., None, :]) ** 2, axis=-1)
    v = (np.sum(np.exp(q[1]) * deviation, axis=-1) + q[2]).mean((1, 2)).reshape(-1, 1, 1, 1)
    change = m - posterior_mean(q_prev, x_prev, sigma_prev, x, sigma, floor)
    change = change * 0.5 * h / h_prev * np.sqrt(np.maximum(1 - 0.005 * v / h_prev**2, 0))
    out, shift = reweighted(q, m, v, change, floor)
    for _ in range(correction_steps):
        reached = mean_of(out) - m
        norms = [np.linalg.norm(a, axis=-1, keepdims=True) for a in (shift, reached)]
        shift = shift - (reached - change) * np.minimum(norms[0] / np.maximum(norms[1], floor), 1)
        out, shift = reweighted(q, m, v, shift, floor)
    return out


def ode_step(q, x, grid, floor):
    x_t, sigma = x, grid[0]
    for here, there in itertools.pairwise(grid):
        x_0 = mean_of(q) if here == sigma else posterior_mean(q, x_t, sigma, x, here, floor)
        x = x + (x - x_0) / here * (there - here)
    return x


def sde_step(q, x, sigma, target, index, normal, noise):
    chosen = np.take_along_axis(q[0], index[..., None, None], axis=-2)[..., 0, :]
    x_0 = chosen + np.sqrt(q[2]) * normal
    a, b = target / sigma, (1 - sigma) / (1 - target)
    beta = 1 - (a * b) ** 2
    return a**2 * b * x + beta * (1 - target) * x_0 + np.sqrt(beta) * target * noise


def emulate(denoise, x, case, draws, floor):
    steps, n, shift = case["num_steps"], case.get("num_substeps", 1), case["shift"]
    u = 1 - np.arange(steps * n + 1) / (steps * n)
    fine = shift * u / (1 + (shift - 1) * u)
    states, previous = [x], None
    for i in range(steps):
        grid = fine[i * n : (i + 1) * n + 1]
        prediction = denoise(jnp.asarray(x), jnp.asarray(grid[0]))
        variance = np.exp(2 * np.asarray(prediction.log_std))
        q = (np.asarray(prediction.means), np.asarray(prediction.log_weights), variance)
        # The first step has no previous one: its mixture is used as it is.
        used = q
        h = grid[0] - grid[-1]
        if previous:
            used = second_order(q, previous, x, grid[0], h, case.get("corr", 0), floor)
        previous = (q, x, grid[0], h)
        drawn = [d[i] for d in draws]
        x = sde_step(used, x, grid[0], grid[-1], *drawn) if draws else ode_step(used, x, grid, floor)
        states.append(x)
    return np.stack(states)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_without_their_floor_the_authors_formulas_give_our_trajectory(
    golden, family, name, uncompiled, x64
):
    case = golden.cases(f"solver_{family}")[name]
    arrays = golden.load(f"solver_{family}")
    common = golden.load(f"solver_{family[:3]}_common")
    fields = ("mixture_index", "mixture_normal", "step_noise") if "output_mode" in case else ()
    draws = [arrays[f"{name}__{field}"] for field in fields]
    draws = [d if d.dtype == np.int32 else d.astype(np.float64) for d in draws]
    x_init = common["in_noise"].astype(np.float64)
    denoise = golden.denoiser(common, case)
    options = {"correction_steps": case.get("corr", 0)}
    if draws:
        solver, key = solvers.gm_sde(2, **options), solvers.Draws(*map(jnp.asarray, draws))
    else:
        solver, key = solvers.gm_ode(2, case["num_substeps"], case["shift"], **options), None
    times = flow.time_grid(case["num_steps"], case["shift"])
    ours = np.asarray(solvers.sample(key, denoise, jnp.asarray(x_init), solver, times, True))
    theirs = arrays[f"{name}__x_f64"]

    floored, exact = (emulate(denoise, x_init, case, draws, floor) for floor in (1e-6, 1e-30))
    assert relative_error(floored, theirs) < 1e-12
    assert relative_error(exact, ours) < 1e-12
    assert relative_error(ours, theirs) > 1e-7


def test_second_order_is_the_mixture_times_a_density_ratio(x64):
    # The ratio of new to old density must be that of two Gaussians at every point, however weak: then
    # the log-densities differ by a quadratic of known curvature. Power of the shift 1e-9, below the floor.
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 5))
    q = gm.GaussianMixture(
        jnp.asarray(rng.normal(size=(3, 5, 2))),
        jnp.asarray(np.log(normalised(logits))),
        jnp.full((3,), np.log(0.3)),
    )
    x = jnp.asarray(rng.normal(size=(3, 2)))
    previous = gm.GaussianMixture(q.means + 1e-4, q.log_weights, q.log_std)
    memory = solvers.Memory(previous, x, jnp.asarray(0.4), jnp.asarray(0.2))
    # Moving to the same point and time changes nothing, so the shift is half of the means' difference.
    var = np.asarray(gm.moment_match(q).var)[:, None]
    shift = -0.5e-4
    new_var = var - shift**2
    points = rng.normal(size=(40, 3, 2)) * 2

    @jax.jit
    def log_ratio(points):
        out = solvers.second_order(q, memory, x, 0.4, 0.2, ca=0.0)
        return gm.log_prob(out, points) - gm.log_prob(q, points)

    delta = points - np.asarray(gm.mean(q))
    expected = np.sum(delta**2 / (2 * var) - (delta - shift) ** 2 / (2 * new_var), axis=-1)
    constant = np.asarray(log_ratio(points)) - expected
    signal = np.ptp(expected, axis=0).min()
    assert np.ptp(constant, axis=0).max() < 1e-8 * signal
