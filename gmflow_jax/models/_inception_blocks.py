"""The layers of FID's Inception as tables, and functions that make and run the layers of a table.

Layers are named as in pytorch-fid's state dict, so that one rule converts all names of weights.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Conv:
    """Entry of a table: a convolution with normalisation and ReLU.

    Attributes:
      name: name of the layer.
      features: channels of the output.
      kernel: height and width of the kernel.
      strides: stride of both axes.
      padding: 'SAME' or 'VALID'.
    """

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    strides: int = 1
    padding: str = "SAME"


@dataclasses.dataclass(frozen=True)
class Fork:
    """Entry of a table: sequences of layers that get the same input.

    Their outputs are concatenated along the channels.
    """

    branches: tuple["Layers", ...]


Layers = tuple[Conv | Fork | Callable[[jax.Array], jax.Array], ...]  # the functions are pools


def shrink(x: jax.Array) -> jax.Array:
    """Apply a maximum pool that halves height and width."""
    return nnx.max_pool(x, (3, 3), (2, 2))


def max_pool(x: jax.Array) -> jax.Array:
    """Apply a maximum pool that keeps height and width."""
    return nnx.max_pool(x, (3, 3), padding="SAME")


def average_pool(x: jax.Array) -> jax.Array:
    """Apply an average pool that keeps height and width; padding does not count in the average."""

    def window_sum(y: jax.Array) -> jax.Array:
        return jax.lax.reduce_window(y, 0.0, jax.lax.add, (1, 3, 3, 1), (1, 1, 1, 1), "SAME")

    # nnx.avg_pool would count in float64 if x64 is enabled.
    return window_sum(x) / window_sum(jnp.ones_like(x[:1, ..., :1]))


def _mixed_5(pool_features: int) -> Fork:
    return Fork((
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)), Conv("branch3x3dbl_3", 96, (3, 3))),
        (average_pool, Conv("branch_pool", pool_features)),
    ))  # fmt: skip


_MIXED_6A = Fork((
    (Conv("branch3x3", 384, (3, 3), 2, "VALID"),),
    (
        Conv("branch3x3dbl_1", 64),
        Conv("branch3x3dbl_2", 96, (3, 3)),
        Conv("branch3x3dbl_3", 96, (3, 3), 2, "VALID"),
    ),
    (shrink,),
))  # fmt: skip


def _mixed_6(width: int) -> Fork:
    return Fork((
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", width), Conv("branch7x7_2", width, (1, 7)), Conv("branch7x7_3", 192, (7, 1))),
        (
            Conv("branch7x7dbl_1", width),
            Conv("branch7x7dbl_2", width, (7, 1)),
            Conv("branch7x7dbl_3", width, (1, 7)),
            Conv("branch7x7dbl_4", width, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        (average_pool, Conv("branch_pool", 192)),
    ))  # fmt: skip


_MIXED_7A = Fork((
    (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2, "VALID")),
    (
        Conv("branch7x7x3_1", 192),
        Conv("branch7x7x3_2", 192, (1, 7)),
        Conv("branch7x7x3_3", 192, (7, 1)),
        Conv("branch7x7x3_4", 192, (3, 3), 2, "VALID"),
    ),
    (shrink,),
))  # fmt: skip


def _mixed_7(pool: Callable[[jax.Array], jax.Array]) -> Fork:
    def row_and_column(name: str) -> Fork:
        return Fork(((Conv(f"{name}a", 384, (1, 3)),), (Conv(f"{name}b", 384, (3, 1)),)))

    return Fork((
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), row_and_column("branch3x3_2")),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            row_and_column("branch3x3dbl_3"),
        ),
        (pool, Conv("branch_pool", 192)),
    ))  # fmt: skip


STEM: Layers = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), 2, "VALID"),
    Conv("Conv2d_2a_3x3", 32, (3, 3), 1, "VALID"),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    shrink,
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"),
    shrink,
)
MIXED = {
    "Mixed_5b": _mixed_5(32),
    "Mixed_5c": _mixed_5(64),
    "Mixed_5d": _mixed_5(64),
    "Mixed_6a": _MIXED_6A,
    "Mixed_6b": _mixed_6(128),
    "Mixed_6c": _mixed_6(160),
    "Mixed_6d": _mixed_6(160),
    "Mixed_6e": _mixed_6(192),
    "Mixed_7a": _MIXED_7A,
    "Mixed_7b": _mixed_7(average_pool),
    "Mixed_7c": _mixed_7(max_pool),  # max_pool is an error of the published graph, which FID is defined by
}


def add_layers(module: nnx.Module, layers: Layers, channels: int, rngs: nnx.Rngs) -> int:
    """Add the convolutions of a table to a module as attributes.

    Args:
      module: the module to add to.
      layers: the table.
      channels: channels of the first layer's input.
      rngs: random number generators for the initial parameters.

    Returns:
      The number of channels of the output.
    """
    for layer in layers:
        if isinstance(layer, Conv):
            setattr(module, layer.name, ConvNormReLU(layer, channels, rngs))
            channels = layer.features
        elif isinstance(layer, Fork):
            channels = sum(add_layers(module, branch, channels, rngs) for branch in layer.branches)
    return channels


def apply_layers(module: nnx.Module, layers: Layers, x: jax.Array) -> jax.Array:
    """Run the layers of a table one after the other.

    Args:
      module: the module that holds the convolutions.
      layers: the table.
      x: the input, [B, H, W, C].

    Returns:
      The output of the last layer.
    """
    for layer in layers:
        if isinstance(layer, Conv):
            x = getattr(module, layer.name)(x)
        elif isinstance(layer, Fork):
            x = jnp.concatenate([apply_layers(module, branch, x) for branch in layer.branches], axis=-1)
        else:
            x = layer(x)
    return x


class ConvNormReLU(nnx.Module):
    """Convolution, normalisation by stored statistics, and ReLU, in float32.

    Args:
      layer: name and sizes of the convolution.
      channels: channels of the input.
      rngs: random number generators for the initial parameters.
    """

    def __init__(self, layer: Conv, channels: int, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            channels,
            layer.features,
            layer.kernel,
            layer.strides,
            padding=layer.padding,
            use_bias=False,
            precision=jax.lax.Precision.HIGHEST,  # by default TPUs use bfloat16, GPUs TF32
            rngs=rngs,
        )
        self.bn = nnx.BatchNorm(layer.features, use_running_average=True, epsilon=1e-3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.bn(self.conv(x)))


class Mixed(nnx.Module):
    """One block of branches, an entry of `MIXED`.

    Args:
      name: key of `MIXED`.
      channels: channels of the input.
      rngs: random number generators for the initial parameters.
    """

    def __init__(self, name: str, channels: int, rngs: nnx.Rngs):
        self.name = name
        self.channels = add_layers(self, (MIXED[name],), channels, rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return apply_layers(self, (MIXED[self.name],), x)
