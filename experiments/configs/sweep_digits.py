"""Guidance scales, steps and solvers on the digits, in a few minutes on two CPU cores.

Command: python -m experiments.sweep --config=experiments/configs/sweep_digits.py --workdir=runs/digits
  --out=sweeps/digits
"""

import ml_collections

from experiments.configs import sweep_base


def get_config() -> ml_collections.ConfigDict:
    config = sweep_base.get_config()
    config.num_steps = (2, 4, 8)
    config.guidance_scales = (0.0, 0.02, 0.05, 0.09, 0.16, 0.27, 0.47)
    config.cfg_scales = (1.0, 1.2, 1.5, 1.9, 2.6)
    config.rows = (
        dict(name="GM-ODE 2", solver="gm_ode", order=2),
        dict(name="GM-SDE 2", solver="gm_sde", order=2),
        dict(name="GM-ODE 2, CFG", solver="gm_ode", order=2, guidance="cfg", orthogonal=0.0),
    )
    return config
