"""GMFlow with K = 64 on the 2-D checkerboard: one call draws the whole board with soft edges.

Paper: Gaussian Mixture Flow Matching Models, arXiv 2504.05304, figures 2 and 3 (transition ratio 0.9).
Command: python -m experiments.train --config=experiments/configs/checkerboard.py --workdir=runs/checkerboard
Cost: about three minutes on two CPU cores, with the evaluation.
Scores: section "Checkerboard" of experiments/study/README.md.
"""

import ml_collections

from experiments.configs import base


def get_config() -> ml_collections.ConfigDict:
    config = base.get_config()
    config.task = "checkerboard"
    config.num_steps = 5500
    config.batch_size = 1024

    config.network = ml_collections.ConfigDict(dict(
        kind="gm_mlp",
        num_dims=2,
        num_components=64,
        width=256,
        depth=5,
        embed_dim=128,
        min_period=0.5,  # shorter periods are noise to a network that must ignore x_t at t = 1
        means_bias_std=2.5,  # the spread of the data, so that every component starts near data and is used
    ))
    config.loss = ml_collections.ConfigDict(dict(
        loss="transition",
        transition_ratio=0.9,
        class_dropout_prob=0.0,
        logit_normal=False,
        shift=2.0,  # draws more noisy times, which determine the first step
    ))
    config.optimizer.update(dict(
        learning_rate=4e-3,
        schedule="cosine",
        warm_up_steps=100,
    ))
    config.ema = ml_collections.ConfigDict(dict(kind="karras", gamma=7.0))

    config.report = ml_collections.ConfigDict(dict(num_seeds=1, num_steps=(1, 2, 4, 8, 16), shift=1.0))
    config.report.rows = (
        dict(name="GM-ODE 2", solver="gm_ode", order=2),
        dict(name="GM-SDE 2", solver="gm_sde", order=2),
        dict(name="AB2", solver="ab2"),
        dict(name="Euler", solver="euler"),
    )
    return config
