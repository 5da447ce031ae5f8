"""imagenet256_gmdit_xl_k8.py with the smaller GM-DiT-B/2.

Command: as in imagenet256_gmdit_xl_k8.py, with --config=experiments/configs/imagenet256_gmdit_b_k8.py
Cost, estimated likewise: 0.046 TFLOP an image, 0.105 s a step, 6 hours in all, reading 39,000 images/s.
Scores: none; the paper does not train this network.
"""

import ml_collections

from experiments.configs import imagenet256_gmdit_xl_k8
from gmflow_jax import models


def get_config() -> ml_collections.ConfigDict:
    config = imagenet256_gmdit_xl_k8.get_config()
    hidden_size, depth, num_heads = models.DIT_SIZES["B"]
    config.network.update(hidden_size=hidden_size, depth=depth, num_heads=num_heads)
    return config
