"""GMFlow on the 1,797 real 8 x 8 digits of scikit-learn, class-conditional, on a laptop's CPU.

Paper: Gaussian Mixture Flow Matching Models, arXiv 2504.05304 (K = 8, transition ratio 0.5).
Command: python -m experiments.train --config=experiments/configs/digits.py --workdir=runs/digits
Cost: about four and a half minutes on two CPU cores, with the evaluation.
Scores: section "Digits" of experiments/study/README.md.
"""

import ml_collections

from experiments.configs import base


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.task = "digits"
    config.num_steps = 5000
    config.batch_size = 64
    config.data.held_out = 0  # digits at the end of the data that are not trained on

    # A pixel of the mixture is a block of 2 x 2 pixels of the image: 16 tokens of D = 4 channels.
    config.network = ml_collections.ConfigDict(dict(
        kind="gm_dit",
        input_size=4,
        in_channels=4,
        patch_size=1,
        hidden_size=64,
        depth=4,
        num_heads=4,
        num_classes=10,
        num_components=8,
        log_std_dim=64,
        scan_layers=False,  # unrolled is faster on a CPU
    ))
    config.loss = ml_collections.ConfigDict(dict(
        loss="transition",
        transition_ratio=0.5,
        class_dropout_prob=0.1,
        logit_normal=True,
    ))
    config.optimizer.update(dict(
        learning_rate=1e-2,
        schedule="cosine",
        warm_up_steps=100,
        weight_decay=0.02,
    ))
    config.ema = ml_collections.ConfigDict(dict(kind="warm_up", max_decay=0.999))

    # Shift of the time grid: 0.8 was best of 0.6, 0.8, 1 and 1.3, on other seeds than the report's.
    config.report = ml_collections.ConfigDict(dict(num_seeds=2, num_steps=(1, 2, 4, 8, 16), shift=0.8))
    config.report.rows = (
        dict(name="GM-ODE 2", solver="gm_ode", order=2),
        dict(name="GM-SDE 2", solver="gm_sde", order=2),
        dict(name="GM-ODE 2, w 0.05", solver="gm_ode", order=2, guidance_scale=0.05, num_steps=(4,)),
    )
    return config
