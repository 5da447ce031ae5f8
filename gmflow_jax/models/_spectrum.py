"""A small network that predicts the power spectrum of the noise of GM-SDE."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import zeros

from gmflow_jax.gm import Gaussian
from gmflow_jax.models._auto_axes import with_auto_axes
from gmflow_jax.models._config import SpectrumMLPConfig
from gmflow_jax.models._layers import MLP


class SpectrumMLP(nnx.Module):
    """Network that predicts the log power spectrum of an image's noise from two statistics.

    The statistics are the predicted variance, averaged over the image, and the variance of the predicted
    mean over its pixels, averaged over channels. Hidden layers with SiLU and a softmax over frequencies
    follow. At initialisation the spectrum is white.

    Args:
      config: sizes of the network.
      rngs: random number generators for the initial parameters.

    Source:
      GMFlow (arXiv 2504.05304), appendix A.3.
    """

    def __init__(self, config: SpectrumMLPConfig, rngs: nnx.Rngs):
        self.config = config
        # Channels first, as in the authors' weights.
        self.logits_shape = (config.num_channels, *config.base_height_width)
        self.mlp = MLP(
            (2, *config.widths, math.prod(self.logits_shape)),
            rngs,
            last_init=zeros,
            param_dtype=config.param_dtype,
        )

    @with_auto_axes
    def __call__(self, gaussian: Gaussian) -> jax.Array:
        """Predict the spectrum for a Gaussian over the data.

        Args:
          gaussian: mean [B, H, W, D] and var, broadcastable to [B, H, W]. H and W are at most the base
            size; smaller images get the low frequencies of its spectrum.

        Returns:
          Log power of each frequency, [B, H, W, D] in the order of an FFT, float32. The power averages
          to 1 over H and W.

        Raises:
          ValueError: if the mean has another number of axes or channels, or is too large.
        """
        shape, base = gaussian.mean.shape, self.config.base_height_width
        if len(shape) != 4 or shape[-1] != self.config.num_channels:
            raise ValueError(
                f"The mean has shape {shape}, but the spectrum was made for "
                f"[B, H, W, {self.config.num_channels}]; give an array with these axes."
            )
        if any(n > largest for n, largest in zip(shape[1:3], base, strict=True)):
            raise ValueError(
                f"The image has {shape[1]} x {shape[2]} pixels, but the spectrum was made for at most "
                f"{base[0]} x {base[1]}; give a smaller image, or set base_size."
            )
        logits = self.mlp(_statistics(gaussian)).reshape(-1, *self.logits_shape)
        for axis in (2, 3):
            logits = _low_frequencies(logits, shape[axis - 1], axis)
        log_share = jax.nn.log_softmax(logits, axis=(2, 3))
        return jnp.moveaxis(log_share + math.log(shape[1] * shape[2]), 1, -1)


def _statistics(gaussian: Gaussian) -> jax.Array:
    """Compute [B, 2]: the mean of var, and the mean over channels of the mean's variance over pixels."""
    mean = gaussian.mean.astype(jnp.float32)
    var = jnp.broadcast_to(gaussian.var.astype(jnp.float32), mean.shape[:-1])
    between = jnp.square(mean - jnp.mean(mean, axis=(1, 2), keepdims=True))
    # The unbiased variance of a single pixel would be 0 / 0; it is 0 here.
    between = jnp.sum(between, axis=(1, 2)) / max(mean.shape[1] * mean.shape[2] - 1, 1)
    return jnp.stack([jnp.mean(var, axis=(1, 2)), jnp.mean(between, axis=-1)], axis=-1)


def _low_frequencies(x: jax.Array, size: int, axis: int) -> jax.Array:
    """Select the `size` lowest frequencies of an axis in the order of an FFT."""
    base = x.shape[axis]
    positive = jax.lax.slice_in_dim(x, 0, (size + 1) // 2, axis=axis)
    negative = jax.lax.slice_in_dim(x, base - size // 2, base, axis=axis)
    return jnp.concatenate([positive, negative], axis=axis)
