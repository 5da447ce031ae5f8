"""A small network for the power spectrum of the noise that a sample is drawn with."""

import math

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.nn.initializers import zeros

from gmflow_jax.gm import Gaussian
from gmflow_jax.models._config import SpectrumMLPConfig
from gmflow_jax.models._layers import MLP


class SpectrumMLP(nnx.Module):
    """Predicts the log power spectrum of an image's noise from two statistics (appendix A.3).

    They are the predicted variance and the spatial variance of the predicted mean, each averaged over
    the image; hidden layers with SiLU, and a softmax over frequencies. At initialisation the noise is
    white.
    """

    def __init__(self, config: SpectrumMLPConfig, rngs: nnx.Rngs):
        self.config = config
        # Channels first, as the authors' weights have it.
        self.logits_shape = (config.num_channels, *config.base_height_width)
        self.mlp = MLP(
            (2, *config.widths, math.prod(self.logits_shape)),
            rngs,
            last_init=zeros,
            param_dtype=config.param_dtype,
        )

    def __call__(self, gaussian: Gaussian) -> Array:
        """Predicts the spectrum for a Gaussian over the data.

        Args:
          gaussian: mean [B, H, W, D], var broadcastable to [B, H, W]. H and W, odd or even, are at
            most the base size; below it the spectrum's low frequencies are used.

        Returns:
          Log power of each frequency, [B, H, W, D] in the order of an FFT, float32; exp of it averages
          to 1 over H and W.

        Raises:
          ValueError: If the mean has another number of axes or channels, or is too large.
        """
        shape, base = gaussian.mean.shape, self.config.base_height_width
        if len(shape) != 4 or shape[-1] != self.config.num_channels:
            raise ValueError(
                f"The mean has shape {shape}, but the spectrum was made for images "
                f"[B, H, W, {self.config.num_channels}]; give the axes in this order."
            )
        if any(n > largest for n, largest in zip(shape[1:3], base, strict=True)):
            raise ValueError(
                f"The image has {shape[1]} x {shape[2]} pixels, but the spectrum was made for at most "
                f"{base[0]} x {base[1]}; give a smaller one, or set base_size."
            )
        logits = self.mlp(_statistics(gaussian)).reshape(-1, *self.logits_shape)
        for axis in (2, 3):
            logits = _low_frequencies(logits, shape[axis - 1], axis)
        log_share = jax.nn.log_softmax(logits, axis=(2, 3))
        return jnp.moveaxis(log_share + math.log(shape[1] * shape[2]), 1, -1)


def _statistics(gaussian: Gaussian) -> Array:
    """[B, 2]: the mean variance, and the mean over channels of the unbiased variance over pixels."""
    mean = gaussian.mean.astype(jnp.float32)
    var = jnp.broadcast_to(gaussian.var.astype(jnp.float32), mean.shape[:-1])
    between = jnp.square(mean - jnp.mean(mean, axis=(1, 2), keepdims=True))
    # One pixel does not vary: 0, where 0 / 0 would be NaN.
    between = jnp.sum(between, axis=(1, 2)) / max(mean.shape[1] * mean.shape[2] - 1, 1)
    return jnp.stack([jnp.mean(var, axis=(1, 2)), jnp.mean(between, axis=-1)], axis=-1)


def _low_frequencies(x: Array, size: int, axis: int) -> Array:
    """The `size` lowest frequencies of an axis in the order of an FFT."""
    base = x.shape[axis]
    positive = jax.lax.slice_in_dim(x, 0, (size + 1) // 2, axis=axis)
    negative = jax.lax.slice_in_dim(x, base - size // 2, base, axis=axis)
    return jnp.concatenate([positive, negative], axis=axis)
