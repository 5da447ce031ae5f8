"""Building blocks of the autoencoder: residual block, attention, and stages that change the image size.

Attributes are named as in diffusers, with `resnets_0` for `resnets.0`, so that one rule converts all
names of weights. Every block maps [B, H, W, C] in `config.dtype` to an array of the same type.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gmflow_jax.models._attention import attention
from gmflow_jax.models._autoencoder_config import AutoencoderKLConfig
from gmflow_jax.models._linear import Linear


def group_norm(config: AutoencoderKLConfig, channels: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Make a group normalisation over all pixels of an image; it computes and returns float32.

    Args:
      config: gives the number of groups and the type of the parameters.
      channels: number of channels.
      rngs: random number generators for the initial parameters.

    Returns:
      The layer.
    """
    return nnx.GroupNorm(
        channels,
        config.num_groups,
        epsilon=1e-6,
        use_fast_variance=False,  # the difference of two large means would cancel
        dtype="float32",
        param_dtype=config.param_dtype,
        rngs=rngs,
    )


class Conv(nnx.Conv):
    """Square convolution that keeps height and width unless `options` says otherwise.

    Args:
      config: gives the types of the computation and of the parameters.
      in_channels: channels of the input.
      out_channels: channels of the output.
      size: height and width of the kernel.
      rngs: random number generators for the initial parameters.
      dtype: type to compute in; `config.dtype` by default.
      **options: further arguments of `nnx.Conv`.
    """

    def __init__(
        self,
        config: AutoencoderKLConfig,
        in_channels: int,
        out_channels: int,
        size: int,
        rngs: nnx.Rngs,
        dtype: str | None = None,
        **options: Any,
    ):
        super().__init__(
            in_channels,
            out_channels,
            (size, size),
            dtype=dtype or config.dtype,
            param_dtype=config.param_dtype,
            rngs=rngs,
            **options,
        )


class ResnetBlock(nnx.Module):
    """Residual block: twice normalisation, SiLU and a 3 x 3 convolution, added to the input.

    Args:
      config: types and number of groups.
      in_channels: channels of the input.
      out_channels: channels of the output.
      rngs: random number generators for the initial parameters.
    """

    def __init__(self, config: AutoencoderKLConfig, in_channels: int, out_channels: int, rngs: nnx.Rngs):
        self.norm1 = group_norm(config, in_channels, rngs)
        self.conv1 = Conv(config, in_channels, out_channels, 3, rngs)
        self.norm2 = group_norm(config, out_channels, rngs)
        self.conv2 = Conv(config, out_channels, out_channels, 3, rngs)
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.conv_shortcut = Conv(config, in_channels, out_channels, 1, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        y = self.conv2(jax.nn.silu(self.norm2(y)))
        return (self.conv_shortcut(x) if self.has_shortcut else x) + y


class AttentionBlock(nnx.Module):
    """Single-head self-attention over all pixels, added to the input.

    Args:
      config: types and number of groups.
      channels: channels of the input and the output.
      rngs: random number generators for the initial parameters.
    """

    def __init__(self, config: AutoencoderKLConfig, channels: int, rngs: nnx.Rngs):
        self.group_norm = group_norm(config, channels, rngs)

        def linear() -> Linear:
            return Linear(
                channels, channels, dtype=config.dtype, param_dtype=config.param_dtype, rngs=rngs
            )

        self.to_q, self.to_k, self.to_v, self.to_out = linear(), linear(), linear(), linear()

    def __call__(self, x: jax.Array) -> jax.Array:
        batch, height, width, channels = x.shape
        y = self.group_norm(x).reshape(batch, height * width, 1, channels)
        y = attention(self.to_q(y), self.to_k(y), self.to_v(y), "xla")
        return x + self.to_out(y).reshape(x.shape)


class MidBlock(nnx.Module):
    """A residual block, attention and another residual block.

    Args:
      config: types and number of groups.
      channels: channels of the input and the output.
      rngs: random number generators for the initial parameters.
    """

    def __init__(self, config: AutoencoderKLConfig, channels: int, rngs: nnx.Rngs):
        self.resnets_0 = ResnetBlock(config, channels, channels, rngs)
        self.attentions_0 = AttentionBlock(config, channels, rngs)
        self.resnets_1 = ResnetBlock(config, channels, channels, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.resnets_1(self.attentions_0(self.resnets_0(x)))


class Downsample(nnx.Module):
    """Halves height and width by a 3 x 3 convolution of stride 2, padded at the right and the bottom.

    Args:
      config: types of the computation and of the parameters.
      channels: channels of the input and the output.
      rngs: random number generators for the initial parameters.

    Source:
      diffusers, Downsample2D with padding=0.
    """

    def __init__(self, config: AutoencoderKLConfig, channels: int, rngs: nnx.Rngs):
        padding = ((0, 1), (0, 1))
        self.conv = Conv(config, channels, channels, 3, rngs, strides=2, padding=padding)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles height and width by repeating pixels, then applies a 3 x 3 convolution.

    Args:
      config: types of the computation and of the parameters.
      channels: channels of the input and the output.
      rngs: random number generators for the initial parameters.
    """

    def __init__(self, config: AutoencoderKLConfig, channels: int, rngs: nnx.Rngs):
        self.conv = Conv(config, channels, channels, 3, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))


class Stage(nnx.Module):
    """Residual blocks, followed by a change of the image size.

    Args:
      config: types and number of groups.
      in_channels: channels of the input.
      out_channels: channels of the output.
      num_resnets: number of residual blocks.
      resample: 'down' halves height and width, 'up' doubles them, None keeps them.
      rngs: random number generators for the initial parameters.
    """

    def __init__(
        self,
        config: AutoencoderKLConfig,
        in_channels: int,
        out_channels: int,
        num_resnets: int,
        resample: str | None,
        rngs: nnx.Rngs,
    ):
        self.num_resnets, self.resample = num_resnets, resample
        for i in range(num_resnets):
            resnet = ResnetBlock(config, out_channels if i else in_channels, out_channels, rngs)
            setattr(self, f"resnets_{i}", resnet)
        if resample == "down":
            self.downsamplers_0 = Downsample(config, out_channels, rngs)
        elif resample == "up":
            self.upsamplers_0 = Upsample(config, out_channels, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.num_resnets):
            x = getattr(self, f"resnets_{i}")(x)
        if self.resample == "down":
            x = self.downsamplers_0(x)
        elif self.resample == "up":
            x = self.upsamplers_0(x)
        return x
