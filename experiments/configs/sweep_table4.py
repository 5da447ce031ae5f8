"""The GM rows of the paper's table 4: best precision at 32 network calls, orthogonal guidance or not.

Command: python -m experiments.sweep --config=experiments/configs/sweep_table4.py
  --checkpoint=checkpoints/imagenet --inception=INCEPTION --reference=REFERENCE --out=sweeps/table4
The other rows use a plain flow network, see sweep_table4_flow.py.
"""

import ml_collections

from experiments.configs import sweep_base


def get_config() -> ml_collections.ConfigDict:
    config = sweep_base.get_config()
    config.num_steps = (32,)
    config.rows = (
        dict(name="GM-SDE, orthogonal", solver="gm_sde", order=1),
        dict(name="GM-SDE 2, orthogonal", solver="gm_sde", order=2),
        dict(name="GM-ODE, orthogonal", solver="gm_ode", order=1),
        dict(name="GM-ODE 2, orthogonal", solver="gm_ode", order=2),
        dict(name="GM-SDE", solver="gm_sde", order=1, orthogonal=0.0),
        dict(name="GM-ODE", solver="gm_ode", order=1, orthogonal=0.0),
    )
    return config
