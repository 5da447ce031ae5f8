"""Trajectories of the authors' baselines: plain flow models with Euler and ancestral sampling.

Measured: float32 within 9e-7 of their float64 run, float64 within 3e-15, relative to max(1, |x|).
"""

import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow, gm, guidance, solvers
from tests.helpers import relative_error

SOLVERS = {
    "flow_euler": solvers.euler,
    "ddpm_small": lambda: solvers.ddpm("small"),
    "ddpm_large": lambda: solvers.ddpm("large"),
}
TOLERANCE = {np.float32: 5e-6, np.float64: 1e-13}


def guided_velocity(golden, common, scale, orthogonal=0.0):
    """Classifier-free guidance of the mean velocity, as plain flow models use it."""
    cond, uncond = golden.velocities(common)

    def velocity(x, t):
        means = gm.mean(cond(x, t)), gm.mean(uncond(x, t))
        return guidance.classifier_free_guidance(*means, scale, orthogonal)

    return flow.denoiser(velocity if scale > 1 else lambda x, t: gm.mean(cond(x, t)))


def check(golden, common, denoise, solver, times, noise, expected, dtype):
    draws = None if noise is None else solvers.Draws(step_noise=jnp.asarray(noise, dtype))
    x_init = jnp.asarray(common["in_noise"], dtype)
    found = solvers.sample(draws, denoise, x_init, solver, times, return_trajectory=True)
    assert found.dtype == dtype
    assert relative_error(found, expected) < TOLERANCE[dtype]


def check_baselines(golden, grid, dtype):
    common, arrays = golden.load(f"baseline_{grid}_common"), golden.load(f"baseline_{grid}")
    for name, case in golden.cases(f"baseline_{grid}").items():
        denoise = guided_velocity(golden, common, case["cfg"])
        times = flow.time_grid(case["steps"], case["shift"])
        noise = arrays.get(f"{name}__noise")
        solver = SOLVERS[case["solver"]]()
        check(golden, common, denoise, solver, times, noise, arrays[f"{name}__x_f64"], dtype)


def check_vanilla_flow(golden, dtype):
    common = golden.load("solver_img_common")
    arrays = golden.load("solver_vanilla_flow")
    cases = {"S8_shift1_cfg1_orth0": (8, 1, 1), "S8_shift1_cfg2p5_orth0": (8, 1, 2.5)}
    for name, (steps, shift, scale) in (cases | {"S6_shift3_cfg2p5_orth1": (6, 3, 2.5)}).items():
        denoise = guided_velocity(golden, common, scale, orthogonal=float(name[-1]))
        times = flow.time_grid(steps, shift)
        expected = arrays[f"{name}__x_f64"]
        check(golden, common, denoise, solvers.euler(), times, None, expected, dtype)


@pytest.mark.parametrize("grid", ["img", "pts"])
def test_float32_baselines(golden, grid, uncompiled):
    check_baselines(golden, grid, np.float32)


@pytest.mark.parametrize("grid", ["img", "pts"])
def test_float64_baselines(golden, grid, uncompiled, x64):
    check_baselines(golden, grid, np.float64)


def test_float32_guided_flow(golden, uncompiled):
    check_vanilla_flow(golden, np.float32)


def test_float64_guided_flow(golden, uncompiled, x64):
    check_vanilla_flow(golden, np.float64)
