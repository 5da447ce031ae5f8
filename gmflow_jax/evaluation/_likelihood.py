"""Likelihoods in the unit in which they are compared."""

import math

import numpy as np

from gmflow_jax.evaluation._checks import finite


def bits_per_dim(nll_per_sample, num_dims: int) -> np.ndarray:
    """Negative log-likelihoods in bits per dimension, float64 of the same shape.

    `nll_per_sample` is in nats, summed over the `num_dims` numbers of a sample (H W D for an image).
    Below 0 where a density is narrow: these are densities, not probabilities of discrete values.
    Raises ValueError for NaN, infinity, or num_dims < 1.
    """
    if num_dims < 1:
        raise ValueError(
            f"num_dims is {num_dims}, but a sample has at least one number; give the product of all "
            "its axes, H W D for an image."
        )
    return finite(nll_per_sample, "nll_per_sample") / (num_dims * math.log(2))
