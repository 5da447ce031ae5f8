"""The ablation of the paper's table 2, at 8 network calls: rows A0 to A4, B0 and B1.

Command: python -m experiments.sweep --config=experiments/configs/sweep_table2.py
  --checkpoint=checkpoints/imagenet --inception=INCEPTION --reference=REFERENCE --out=sweeps/table2
Row A5 is a network with transition ratio 1: train imagenet256_gmdit_xl_k8.py with
  --config.loss.transition_ratio=1.0, then sweep with --workdir, --autoencoder and --row=A0.
Cost: 7 million images of XL/2 with 16 network calls each; on 8 GPUs of 400 TFLOP/s at 40 % these calls take
  an estimated six hours.
"""

import ml_collections

from experiments.configs import sweep_base


def get_config() -> ml_collections.ConfigDict:
    config = sweep_base.get_config()
    config.rows = (
        dict(name="A0 GM-SDE 2", solver="gm_sde", order=2),
        dict(name="A1 first order", solver="gm_sde", order=1),
        dict(name="A2 A1, no spectrum", solver="gm_sde", order=1, spectrum=False),
        # Assumes that the paper's "vanilla CFG" has no orthogonal projection.
        dict(
            name="A3 A2, CFG", solver="gm_sde", order=1, spectrum=False, guidance="cfg", orthogonal=0.0
        ),
        dict(name="A4 A0 by DPM++ 2M SDE", solver="dpmpp_2m_sde"),
        dict(name="B0 GM-ODE 2", solver="gm_ode", order=2),
        dict(name="B1 B0, no sub-steps", solver="gm_ode", order=2, num_substeps=1),
    )
    return config
