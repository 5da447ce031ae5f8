"""Building blocks of the autoencoder: residual block, attention, stages that change the size.

Attributes have the names of diffusers, a list's index joined by an underscore, so that weights are
converted by a rule. Blocks map [B, H, W, C] in `config.dtype` to the same type.
"""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gmflow_jax.models._autoencoder_config import AutoencoderKLConfig
from gmflow_jax.models._layers import attention
from gmflow_jax.models._linear import Linear


def group_norm(config: AutoencoderKLConfig, channels: int, rngs: nnx.Rngs) -> nnx.GroupNorm:
    """Normalises groups of channels over a whole image; in float32, to float32."""
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
    """Square convolution in `dtype`, `config.dtype` unless given, that keeps height and width."""

    def __init__(
        self,
        config: AutoencoderKLConfig,
        in_channels: int,
        out_channels: int,
        size: int,
        rngs: nnx.Rngs,
        dtype: str | None = None,
        **options,
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
    """Normalisation, SiLU and a 3 x 3 convolution, twice, added to the input."""

    def __init__(self, config: AutoencoderKLConfig, in_channels: int, out_channels: int, rngs: nnx.Rngs):
        self.norm1 = group_norm(config, in_channels, rngs)
        self.conv1 = Conv(config, in_channels, out_channels, 3, rngs)
        self.norm2 = group_norm(config, out_channels, rngs)
        self.conv2 = Conv(config, out_channels, out_channels, 3, rngs)
        self.has_shortcut = in_channels != out_channels
        if self.has_shortcut:
            self.conv_shortcut = Conv(config, in_channels, out_channels, 1, rngs)

    def __call__(self, x: Array) -> Array:
        y = self.conv1(jax.nn.silu(self.norm1(x)))
        y = self.conv2(jax.nn.silu(self.norm2(y)))
        return (self.conv_shortcut(x) if self.has_shortcut else x) + y


class AttentionBlock(nnx.Module):
    """Attention of one head among all pixels, added to the input."""

    def __init__(self, config: AutoencoderKLConfig, channels: int, rngs: nnx.Rngs):
        self.group_norm = group_norm(config, channels, rngs)
        types = {"dtype": config.dtype, "param_dtype": config.param_dtype}
        self.to_q = Linear(channels, channels, rngs=rngs, **types)
        self.to_k = Linear(channels, channels, rngs=rngs, **types)
        self.to_v = Linear(channels, channels, rngs=rngs, **types)
        self.to_out = Linear(channels, channels, rngs=rngs, **types)

    def __call__(self, x: Array) -> Array:
        batch, height, width, channels = x.shape
        y = self.group_norm(x).reshape(batch, height * width, 1, channels)
        y = attention(self.to_q(y), self.to_k(y), self.to_v(y), "xla")
        return x + self.to_out(y).reshape(x.shape)


class MidBlock(nnx.Module):
    """A residual block, attention and another residual block."""

    def __init__(self, config: AutoencoderKLConfig, channels: int, rngs: nnx.Rngs):
        self.resnets_0 = ResnetBlock(config, channels, channels, rngs)
        self.attentions_0 = AttentionBlock(config, channels, rngs)
        self.resnets_1 = ResnetBlock(config, channels, channels, rngs)

    def __call__(self, x: Array) -> Array:
        return self.resnets_1(self.attentions_0(self.resnets_0(x)))


class Downsample(nnx.Module):
    """Halves height and width by a convolution that looks to the right and below."""

    def __init__(self, config: AutoencoderKLConfig, channels: int, rngs: nnx.Rngs):
        padding = ((0, 1), (0, 1))
        self.conv = Conv(config, channels, channels, 3, rngs, strides=2, padding=padding)

    def __call__(self, x: Array) -> Array:
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles height and width by repeating pixels, then applies a convolution."""

    def __init__(self, config: AutoencoderKLConfig, channels: int, rngs: nnx.Rngs):
        self.conv = Conv(config, channels, channels, 3, rngs)

    def __call__(self, x: Array) -> Array:
        return self.conv(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2))


class Stage(nnx.Module):
    """Residual blocks, then a change of size: 'down', 'up' or None."""

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

    def __call__(self, x: Array) -> Array:
        for i in range(self.num_resnets):
            x = getattr(self, f"resnets_{i}")(x)
        if self.resample == "down":
            x = self.downsamplers_0(x)
        elif self.resample == "up":
            x = self.upsamplers_0(x)
        return x
