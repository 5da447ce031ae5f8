"""The baseline of imagenet256_gmdit_xl_k8.py: plain flow matching (L2 loss), same backbone and budget.

Command: as in imagenet256_gmdit_xl_k8.py, with --config=experiments/configs/imagenet256_gmdit_xl_k1.py
Cost: as in imagenet256_gmdit_xl_k8.py.
Scores of the paper's own training, best precision over guidance scales in 32 steps: Euler 0.931, UniPC
  0.929, DDPM with the small variance 0.939; with orthogonal guidance 0.934, 0.931 and 0.944.
"""

import ml_collections

from experiments.configs import imagenet256_gmdit_xl_k8


def get_config() -> ml_collections.ConfigDict:
    config = imagenet256_gmdit_xl_k8.get_config()
    config.network.num_components = 1
    config.network.constant_log_std = 0.0
    config.spectrum = None
    config.loss.loss = "flow"
    return config
