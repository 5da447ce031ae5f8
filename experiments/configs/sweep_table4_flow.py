"""The plain flow rows of the paper's table 4: baselines with classifier-free guidance at 32 network calls.

Their network has not been published; train one with imagenet256_gmdit_xl_k1.py.
Command: python -m experiments.sweep --config=experiments/configs/sweep_table4_flow.py --workdir=runs/xl_k1
  --autoencoder=checkpoints/imagenet --inception=INCEPTION --reference=REFERENCE --out=sweeps/table4_flow
"""

import ml_collections

from experiments.configs import sweep_base

_BASELINES = {
    "DDPM small": "ddpm", "DPM++ 2M SDE": "dpmpp_2m_sde", "Euler": "euler", "UniPC": "unipc",
}  # fmt: skip


def get_config() -> ml_collections.ConfigDict:
    config = sweep_base.get_config()
    config.num_steps = (32,)
    config.rows = tuple(
        dict(name=f"{name}{ending}", solver=solver, guidance="cfg", orthogonal=orthogonal)
        for ending, orthogonal in ((", orthogonal", 1.0), ("", 0.0))
        for name, solver in _BASELINES.items()
    )
    return config
