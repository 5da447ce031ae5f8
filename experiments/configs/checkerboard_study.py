"""The five checkerboard networks of the solver study: K = 1, 2, 8, 64, and plain flow matching.

They are smaller than in checkerboard.py; all five train in three minutes on two CPU cores.

Command: python -m experiments.train --config=experiments/configs/checkerboard_study.py:8 --workdir=runs/k8
Variants, after the colon: 1, 2, 8, 64 (the default) and flow.
python -m experiments.solver_study trains all of them.
"""

import ml_collections

from experiments.configs import checkerboard

VARIANTS = ("1", "2", "8", "64", "flow")


def get_config(variant: str = "64") -> ml_collections.ConfigDict:
    if variant not in VARIANTS:
        raise ValueError(f"There is no variant {variant!r}. Give one of {', '.join(VARIANTS)}.")
    config = checkerboard.get_config()
    config.num_steps = 3000
    config.batch_size = 512
    config.network.width = 128
    config.report.rows = (
        dict(name="GM-ODE 2", solver="gm_ode", order=2),
        dict(name="GM-SDE 2", solver="gm_sde", order=2),
    )
    if variant != "flow":
        config.network.num_components = int(variant)
        return config
    config.network.num_components = 1
    config.network.constant_log_std = 0.0
    config.loss.loss = "flow"
    config.report.rows = (
        dict(name="AB2", solver="ab2"),
        dict(name="Euler", solver="euler"),
    )
    return config
