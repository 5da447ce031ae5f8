"""Time grids and time draws against the authors' schedules."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import kstest, norm

from gmflow_jax import flow
from gmflow_jax.flow._time import time_from_draw

SCHEDULES = np.load(Path(__file__).parents[1] / "golden" / "algebra" / "schedules.npz")
TOLERANCE = 2e-7  # float32 rounding of values up to 1


@pytest.mark.parametrize(("num_steps", "shift"), [(1, 1), (4, 1), (8, 3), (32, 1), (50, 0.5)])
def test_golden_grids(num_steps, shift):
    name = f"grid_S{num_steps}_shift{shift}".replace(".", "p")
    expected = SCHEDULES[f"{name}_sigmas"]
    grid = np.asarray(flow.time_grid(num_steps, shift))
    assert grid.dtype == np.float32 and grid[0] == 1 and grid[-1] == 0 and np.all(np.diff(grid) < 0)
    np.testing.assert_allclose(grid, expected, rtol=0, atol=TOLERANCE)
    timesteps = SCHEDULES[f"{name}_timesteps"]
    np.testing.assert_allclose(1000 * grid[:-1], timesteps, rtol=0, atol=1000 * TOLERANCE)


GAUSSIAN = "_logit_normal_enableTrue"
DRAWS = {
    "shift1p0": ("uniform", dict(shift=1.0, logit_normal=False)),
    "shift3p0": ("uniform", dict(shift=3.0, logit_normal=False)),
    f"shift1p0{GAUSSIAN}": ("normal", dict(shift=1.0)),
    f"shift2p0{GAUSSIAN}_logit_normal_mean0p4_logit_normal_std0p7": (
        "normal",
        dict(shift=2.0, mean=0.4, std=0.7),
    ),
}


@pytest.mark.parametrize("name", DRAWS)
def test_golden_time_draws(name):
    """The authors' times are in units of 1000, and t = 1 - U for uniform draws U."""
    kind, arguments = DRAWS[name]
    draws = SCHEDULES[f"tsampler_{kind}_draws"]
    ours = time_from_draw(jnp.asarray(draws), **arguments)
    np.testing.assert_allclose(ours, SCHEDULES[f"tsampler_t_{name}_f64"] / 1000, rtol=0, atol=TOLERANCE)
    with jax.enable_x64(True):
        ours = time_from_draw(jnp.asarray(draws, jnp.float64), **arguments)
        np.testing.assert_allclose(ours, SCHEDULES[f"tsampler_t_{name}_f64"] / 1000, rtol=1e-14)


@pytest.mark.parametrize(
    ("arguments", "cdf"),
    [
        (dict(logit_normal=False), lambda t: t),
        (dict(logit_normal=False, shift=3.0), lambda t: t / (3 - 2 * t)),
        (dict(mean=0.4, std=0.7), lambda t: norm.cdf((np.log(t / (1 - t)) - 0.4) / 0.7)),
    ],
)
def test_distribution_of_sampled_times(arguments, cdf):
    t = np.asarray(flow.sample_time(jax.random.key(0), (5000,), **arguments), np.float64)
    assert t.min() > 0 and t.max() <= 1
    assert kstest(t, cdf).pvalue > 0.01


def test_sampled_times_repeat_with_the_key_and_stay_above_zero():
    a, b = (flow.sample_time(jax.random.key(3), (2, 3)) for _ in range(2))
    np.testing.assert_array_equal(a, b)
    assert a.shape == (2, 3) and a.dtype == jnp.float32
    # A uniform draw of 1 and the deepest normal draw would give t = 0, where the loss is not defined.
    assert time_from_draw(jnp.ones(()), logit_normal=False) == np.float32(1e-6)
    assert time_from_draw(jnp.full((), -120.0)) == np.float32(1e-6)


@pytest.mark.parametrize(
    ("call", "given"),
    [
        (lambda: flow.time_grid(0), "0"),
        (lambda: flow.time_grid(-3), "-3"),
        (lambda: flow.time_grid(4, shift=0.0), "0.0"),
        (lambda: flow.sample_time(jax.random.key(0), (2,), shift=-1.0), "-1.0"),
    ],
)
def test_impossible_grids_are_refused(call, given):
    with pytest.raises(ValueError, match=r"\.$") as error:
        call()
    assert f"but {given} was given" in str(error.value)
