"""The paper's main result: precision 0.942 of GM-ODE 2 at 6 network calls, and 0.950 of GM-SDE 2 at 32.

Command: python -m experiments.sweep --config=experiments/configs/sweep_headline.py
  --checkpoint=checkpoints/imagenet --inception=INCEPTION --reference=REFERENCE --out=sweeps/headline
"""

import ml_collections

from experiments.configs import sweep_base


def get_config() -> ml_collections.ConfigDict:
    config = sweep_base.get_config()
    config.rows = (
        dict(name="GM-ODE 2", solver="gm_ode", order=2, num_steps=(6,)),
        dict(name="GM-SDE 2", solver="gm_sde", order=2, num_steps=(32,)),
    )
    return config
