"""imagenet256_gmdit_xl_k8.py with the smaller GM-DiT-S/2.

Command: as in imagenet256_gmdit_xl_k8.py, with --config=experiments/configs/imagenet256_gmdit_s_k8.py
Cost, estimated likewise: 0.012 TFLOP an image, 0.047 s a step, 2.6 hours in all, reading 88,000 images/s.
Scores: none; the paper does not train this network.
"""

import ml_collections

from experiments.configs import imagenet256_gmdit_xl_k8
from gmflow_jax import models


def get_config() -> ml_collections.ConfigDict:
    config = imagenet256_gmdit_xl_k8.get_config()
    hidden_size, depth, num_heads = models.DIT_SIZES["S"]
    config.network.update(hidden_size=hidden_size, depth=depth, num_heads=num_heads)
    return config
