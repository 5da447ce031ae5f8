"""Few-step distillation of digits.py: one network call draws a digit.

Method: pi-Flow, arXiv 2510.14974. The student's mixture imitates the teacher's velocity.
Command: python -m experiments.train --config=experiments/configs/digits_distilled.py
  --config.teacher=runs/digits --config.num_calls=1 --workdir=runs/digits_1call
Cost: at most four minutes on two CPU cores, with the evaluation.
Scores: section "Few calls" of experiments/study/README.md.
"""

import ml_collections

from experiments.configs import digits, distillation


def get_config() -> ml_collections.ConfigDict:
    config = digits.get_config()
    distillation.add_to(config)
    config.num_steps = 7500
    config.batch_size = 32
    config.distillation.update(dict(dropout=0.2, num_substeps=32))
    config.optimizer.update(dict(learning_rate=5e-3, weight_decay=0.0))
    distillation.add_report(config, num_seeds=2, euler_steps=(32,))
    return config
