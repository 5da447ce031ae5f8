"""Likelihoods in bits per dimension."""

import math

import numpy as np

from gmflow_jax.evaluation._checks import finite


def bits_per_dim(nll_per_sample, num_dims: int) -> np.ndarray:
    """Convert negative log-likelihoods to bits per dimension.

    The result can be below 0, since these are densities, not probabilities of discrete values.

    Args:
      nll_per_sample: in nats, summed over the numbers of a sample; any shape.
      num_dims: numbers in a sample, H W D for an image.

    Returns:
      float64 of the same shape.

    Raises:
      ValueError: if a value is NaN or infinite, or num_dims < 1.
    """
    if num_dims < 1:
        raise ValueError(
            f"num_dims is {num_dims}, but a sample has at least one number; give the product of all "
            "its axes, H W D for an image."
        )
    return finite(nll_per_sample, "nll_per_sample") / (num_dims * math.log(2))
