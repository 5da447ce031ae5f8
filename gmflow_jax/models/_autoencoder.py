"""The autoencoder of Stable Diffusion. The ImageNet networks model its latents."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from gmflow_jax.models._auto_axes import with_auto_axes
from gmflow_jax.models._autoencoder_blocks import Conv, MidBlock, Stage, group_norm
from gmflow_jax.models._autoencoder_config import AutoencoderKLConfig


class AutoencoderKL(nnx.Module):
    """Autoencoder that maps images to Gaussians over latents, and latents to images.

    The same network as diffusers' AutoencoderKL, without tiling. Height and width of a latent are those
    of the image divided by `config.downscale`. `config.scaling_factor` is not applied here: multiply
    latents by it after encoding, and divide by it before decoding.

    Args:
      config: sizes and options of the network.
      rngs: random number generators for the initial parameters.

    Source:
      Rombach et al. 2022 (arXiv 2112.10752); diffusers, AutoencoderKL.
    """

    def __init__(self, config: AutoencoderKLConfig, rngs: nnx.Rngs):
        self.config = config
        latents, moments = config.latent_channels, 2 * config.latent_channels
        self.encoder = Encoder(config, rngs)
        self.quant_conv = Conv(config, moments, moments, 1, rngs, dtype="float32")
        self.post_quant_conv = Conv(config, latents, latents, 1, rngs, dtype="float32")
        self.decoder = Decoder(config, rngs)

    @with_auto_axes
    def encode(self, images: jax.Array, batch_size: int | None = None) -> tuple[jax.Array, jax.Array]:
        """Predict the Gaussian over the latent of each image.

        Args:
          images: images in [-1, 1], [B, H, W, in_channels]. H and W are multiples of
            `config.downscale`.
          batch_size: number of images to encode at a time, to bound memory; None encodes all at once.
            The result is the same up to rounding.

        Returns:
          mean and log_var, each [B, H / downscale, W / downscale, latent_channels] and float32. The
          log-variance is clipped to [-30, 20].

        Raises:
          ValueError: if a shape does not fit, or `batch_size` is less than 1.
        """
        _check_axes("The images have", images, self.config.in_channels)
        height, width = images.shape[1:3]
        if height % self.config.downscale or width % self.config.downscale:
            raise ValueError(
                f"The images have {height} x {width} pixels, but the encoder divides both sides by "
                f"{self.config.downscale}; crop, pad or resize them to a multiple of it."
            )
        with jax.default_matmul_precision(self.config.precision):
            moments = _in_batches(lambda x: self.quant_conv(self.encoder(x)), images, batch_size)
        mean, log_var = jnp.split(moments, 2, axis=-1)
        return mean, jnp.clip(log_var, -30.0, 20.0)

    @with_auto_axes
    def decode(self, z: jax.Array, batch_size: int | None = None) -> jax.Array:
        """Decode latents to images.

        Args:
          z: latents, [B, h, w, latent_channels], of any height and width.
          batch_size: number of latents to decode at a time, to bound memory; None decodes all at once.
            The result is the same up to rounding.

        Returns:
          Images, [B, h * downscale, w * downscale, out_channels], float32. Their nominal range is
          [-1, 1]; values are not clipped to it.

        Raises:
          ValueError: if a shape does not fit, or `batch_size` is less than 1.
        """
        _check_axes("The latents have", z, self.config.latent_channels)
        with jax.default_matmul_precision(self.config.precision), jax.named_scope("decode"):
            return _in_batches(lambda x: self.decoder(self.post_quant_conv(x)), z, batch_size)


class Encoder(nnx.Module):
    """Encoder from images to the means and log-variances of latents, before `quant_conv`.

    Inputs and outputs are float32.

    Args:
      config: sizes and options of the network.
      rngs: random number generators for the initial parameters.
    """

    def __init__(self, config: AutoencoderKLConfig, rngs: nnx.Rngs):
        self.dtype, self.num_stages = config.dtype, len(config.block_channels)
        widths = config.block_channels
        self.conv_in = Conv(config, config.in_channels, widths[0], 3, rngs, dtype="float32")
        for i, width in enumerate(widths):
            resample = "down" if i < self.num_stages - 1 else None
            stage = Stage(config, widths[max(i - 1, 0)], width, config.layers_per_block, resample, rngs)
            setattr(self, f"down_blocks_{i}", stage)
        self.mid_block = MidBlock(config, widths[-1], rngs)
        self.conv_norm_out = group_norm(config, widths[-1], rngs)
        self.conv_out = Conv(config, widths[-1], 2 * config.latent_channels, 3, rngs, dtype="float32")

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.conv_in(x).astype(self.dtype)
        for i in range(self.num_stages):
            x = getattr(self, f"down_blocks_{i}")(x)
        x = self.mid_block(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


class Decoder(nnx.Module):
    """Decoder from latents, after `post_quant_conv`, to images.

    Inputs and outputs are float32.

    Args:
      config: sizes and options of the network.
      rngs: random number generators for the initial parameters.
    """

    def __init__(self, config: AutoencoderKLConfig, rngs: nnx.Rngs):
        self.dtype, self.num_stages = config.dtype, len(config.block_channels)
        widths = config.block_channels[::-1]
        self.conv_in = Conv(config, config.latent_channels, widths[0], 3, rngs, dtype="float32")
        self.mid_block = MidBlock(config, widths[0], rngs)
        for i, width in enumerate(widths):
            resample = "up" if i < self.num_stages - 1 else None
            num_resnets = config.layers_per_block + 1
            stage = Stage(config, widths[max(i - 1, 0)], width, num_resnets, resample, rngs)
            setattr(self, f"up_blocks_{i}", stage)
        self.conv_norm_out = group_norm(config, widths[-1], rngs)
        self.conv_out = Conv(config, widths[-1], config.out_channels, 3, rngs, dtype="float32")

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.mid_block(self.conv_in(x).astype(self.dtype))
        for i in range(self.num_stages):
            x = getattr(self, f"up_blocks_{i}")(x)
        return self.conv_out(jax.nn.silu(self.conv_norm_out(x)))


def _in_batches(
    function: Callable[[jax.Array], jax.Array], x: jax.Array, batch_size: int | None
) -> jax.Array:
    """Compute `function(x)` for `batch_size` samples at a time."""
    if batch_size is not None and batch_size < 1:
        raise ValueError(
            f"batch_size is {batch_size}, but it is the number of samples to process at a time; "
            "give at least 1, or None for all."
        )
    if batch_size is None or batch_size >= x.shape[0]:
        return function(x)
    return jax.lax.map(lambda sample: function(sample[None])[0], x, batch_size=batch_size)


def _check_axes(start: str, x: jax.Array, channels: int) -> None:
    if x.ndim != 4 or x.shape[-1] != channels:
        raise ValueError(
            f"{start} shape {x.shape}, but the autoencoder needs [B, H, W, {channels}]; "
            "give four axes, channels last."
        )
