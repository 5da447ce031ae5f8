"""Few-step distillation of checkerboard.py: one network call draws the board.

Method: pi-Flow, arXiv 2510.14974. The student's mixture imitates the teacher's velocity.
Command: python -m experiments.train --config=experiments/configs/checkerboard_distilled.py
  --config.teacher=runs/checkerboard --config.num_calls=1 --workdir=runs/checkerboard_1call
Cost: at most four minutes on two CPU cores, with the evaluation.
Scores: section "Few calls" of experiments/study/README.md.
"""

import ml_collections

from experiments.configs import checkerboard, distillation


def get_config() -> ml_collections.ConfigDict:
    config = checkerboard.get_config()
    distillation.add_to(config)
    config.num_steps = 4000
    config.batch_size = 256
    # With 16 Euler sub-steps the total variation was .105; with 8 and with 16 midpoint sub-steps, .06.
    config.distillation.update(dict(num_substeps=8, integrator="midpoint"))
    config.optimizer.update(dict(learning_rate=3e-3))
    distillation.add_report(config, num_seeds=1, euler_steps=(1, 2, 4, 8, 32))
    return config
