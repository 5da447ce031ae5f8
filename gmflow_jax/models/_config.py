"""Configurations of the networks. Their values are checked when they are made."""

import dataclasses
import math
import re
from typing import Any

_DTYPES = ("float32", "bfloat16", "float16")
_ATTENTION = ("xla", "cudnn", "auto")
_HEADS = ("joint", "separate")
_REMAT = (False, True, "none", "full", "dots")
# (hidden_size, depth, num_heads) of table 1 of Peebles and Xie 2023 (arXiv 2212.09748).
DIT_SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_positive(config: Any, names: tuple[str, ...]) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value >= 1, f"{name} is {value}, but must be at least 1; give a larger number.")


def _require_dtypes(config: Any, names: tuple[str, ...] = ("dtype", "param_dtype")) -> None:
    for name in names:
        value = getattr(config, name)
        _require(
            value in _DTYPES,
            f"{name} is {value!r}, which is not a float type; give one of {', '.join(_DTYPES)}.",
        )


def _require_stds(config: Any) -> None:
    std = config.means_bias_std
    _require(
        std >= 0 and math.isfinite(std),
        f"means_bias_std is {std}, but it is a standard deviation; give a finite number, at least 0.",
    )
    std = config.constant_log_std
    _require(
        std is None or math.isfinite(std),
        f"constant_log_std is {std}, but the loss needs a finite log standard deviation; "
        "give a number, or None to let the network predict it.",
    )


def _height_width(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    return height, width


@dataclasses.dataclass(frozen=True)
class GMDiTConfig:
    """Sizes and options of `GMDiT`; the defaults are the authors' ImageNet 256 x 256 network.

    Attributes:
      input_size: height and width in pixels, or one number for both, that the position features are
        made for. Images of other sizes are accepted; their positions are rescaled to this size.
      in_channels: channels of a pixel, D of the mixture.
      patch_size: height and width of a patch in pixels. Each patch is one token.
      hidden_size: number of features of a token.
      depth: number of transformer blocks.
      num_heads: number of attention heads. It divides `hidden_size`.
      num_classes: number of classes, 0 for none. The label `num_classes` means "no class".
      num_components: number of mixture components K. K = 1 with `constant_log_std=0.0` is flow matching.
      mlp_ratio: hidden width of a block's MLP, as a multiple of `hidden_size`.
      log_std_layers: number of linear layers of the MLP that predicts the log standard deviation.
      log_std_dim: hidden width of that MLP.
      constant_log_std: fixed log standard deviation; None predicts it.
      head: 'joint' or 'separate', the authors' first and second variant. Both compute the same function.
        They differ in the initial log-weights (random or uniform) and in the names of exported weights.
      means_bias_std: standard deviation of the initial bias of the component means. 0, the authors'
        value, starts with equal biases; a positive value makes the components differ from the start.
      time_scale: factor of the time in [0, 1] before its sines and cosines: 1000 in DiT and the authors'
        networks, 1 in SiT.
      dtype: type that the blocks compute in. The embeddings, the head and the outputs are float32. In blocks
        of float32, TPUs round the factors of products to bfloat16, and NVIDIA GPUs to TF32, as is JAX's
        default; `jax.default_matmul_precision("highest")` around the calls gives float32.
      param_dtype: type of the parameters.
      scan_layers: True runs the blocks by `jax.lax.scan`, whose compile time does not grow with depth;
        False unrolls them, which runs faster. The parameters have the same form.
      remat: which values the backward pass recomputes in each block, to save memory: 'none' or False
        for no value, 'dots' for all but the products with parameters, 'full' or True for all.
      attention: 'xla', 'cudnn' or 'auto'. 'cudnn' is the fused kernel of NVIDIA GPUs and needs
        `dtype='bfloat16'` or 'float16'. 'auto' is 'cudnn' in programs for NVIDIA GPUs if cuDNN is installed
        where the network is traced and has a kernel for these sizes, else 'xla'. JAX exports only 'xla'.

    Source:
      Peebles and Xie 2023 (arXiv 2212.09748); GMFlow (arXiv 2504.05304) and the authors' code.
    """

    input_size: int | tuple[int, int] = 32
    in_channels: int = 4
    patch_size: int = 2
    hidden_size: int = 1152
    depth: int = 28
    num_heads: int = 16
    num_classes: int = 1000
    num_components: int = 8
    mlp_ratio: float = 4.0
    log_std_layers: int = 2
    log_std_dim: int = 1024
    constant_log_std: float | None = None
    head: str = "joint"
    means_bias_std: float = 0.0
    time_scale: float = 1000.0
    dtype: str = "float32"
    param_dtype: str = "float32"
    scan_layers: bool = False
    remat: bool | str = False
    attention: str = "xla"

    def __post_init__(self):
        names = ("in_channels", "patch_size", "hidden_size", "depth", "num_heads", "num_components")
        _require_positive(self, (*names, "log_std_layers", "log_std_dim"))
        _require_dtypes(self)
        _require_stds(self)
        _require(
            self.num_classes >= 0,
            f"num_classes is {self.num_classes}; give the number of classes, or 0 for none.",
        )
        self._require_sizes()
        _require(
            self.time_scale > 0 and math.isfinite(self.time_scale),
            f"time_scale is {self.time_scale}, but it multiplies the time; give a positive number.",
        )
        _require(self.head in _HEADS, f"head is {self.head!r}; give 'joint' or 'separate'.")
        _require(
            self.remat in _REMAT, f"remat is {self.remat!r}; give 'none', 'dots' or 'full', or a bool."
        )
        _require(
            self.attention in _ATTENTION, f"attention is {self.attention!r}; give 'xla', 'cudnn' or 'auto'."
        )

    def _require_sizes(self) -> None:
        size = self.input_size
        _require(
            isinstance(size, int) or len(size) == 2,
            f"input_size is {size!r}; give one number of pixels, or (height, width).",
        )
        _require(
            all(n >= 1 and n % self.patch_size == 0 for n in self.input_height_width),
            f"input_size is {size}, but must be divisible by patch_size "
            f"{self.patch_size}; give a positive multiple of it.",
        )
        _require(
            self.hidden_size % self.num_heads == 0,
            f"hidden_size is {self.hidden_size}, but must be divisible by num_heads "
            f"{self.num_heads}; give a multiple of it.",
        )
        _require(
            self.hidden_size % 4 == 0,
            f"hidden_size is {self.hidden_size}, but must be divisible by 4, for it holds the "
            "sines and cosines of row and column; give a multiple of 4.",
        )
        _require(
            self.mlp_ratio > 0 and self.hidden_size * self.mlp_ratio >= 1,
            f"mlp_ratio is {self.mlp_ratio}, which leaves no width for the MLP; give a larger one.",
        )

    @property
    def input_height_width(self) -> tuple[int, int]:
        """`input_size` as (height, width)."""
        return _height_width(self.input_size)


def gm_dit_config(name: str, **overrides: Any) -> GMDiTConfig:
    """Make the configuration of a network size of the DiT paper.

    Args:
      name: size and patch size, such as 'DiT-S/2', 'DiT-B/4' or 'DiT-XL/2'.
      **overrides: further fields of `GMDiTConfig`.

    Returns:
      The configuration.

    Raises:
      ValueError: if the name is unknown.

    Source:
      Peebles and Xie 2023 (arXiv 2212.09748), table 1.

    Example:
      >>> from gmflow_jax import models
      >>> config = models.gm_dit_config("DiT-S/2", num_components=4)
      >>> config.hidden_size, config.depth, config.patch_size, config.num_components
      (384, 12, 2, 4)
    """
    match = re.fullmatch(r"DiT-(S|B|L|XL)/([1-9]\d*)", name)
    if match is None:
        raise ValueError(
            f"There is no network called {name!r}; give DiT-S, DiT-B, DiT-L or DiT-XL, a slash "
            "and the patch size, such as 'DiT-XL/2'."
        )
    hidden_size, depth, num_heads = DIT_SIZES[match[1]]
    fields: dict[str, Any] = {
        "hidden_size": hidden_size,
        "depth": depth,
        "num_heads": num_heads,
        "patch_size": int(match[2]),
    }
    return GMDiTConfig(**(fields | overrides))


@dataclasses.dataclass(frozen=True)
class GMMLPConfig:
    """Sizes and options of `GMMLP`; the defaults are the authors' checkerboard network.

    Attributes:
      num_dims: number of dimensions D of a point.
      num_components: number of mixture components K.
      embed_dim: number of features of the time, a multiple of 4. Each coordinate has half as many.
      width: width of the hidden layers.
      depth: number of hidden layers.
      constant_log_std: fixed log standard deviation; None predicts it.
      min_period: shortest period of the coordinates' sines and cosines, in the units of the points.
      max_period: longest period of the coordinates' sines and cosines.
      means_bias_std: standard deviation of the initial bias of the component means.
      dtype: type that the hidden layers compute in. Features, heads and outputs are float32. For float32 on
        accelerators see `GMDiTConfig`.
      param_dtype: type of the parameters.
    """

    num_dims: int = 2
    num_components: int = 64
    embed_dim: int = 256
    width: int = 512
    depth: int = 5
    constant_log_std: float | None = None
    min_period: float = 0.005
    max_period: float = 50.0
    means_bias_std: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"

    def __post_init__(self):
        _require_positive(self, ("num_dims", "num_components", "width", "depth"))
        _require_dtypes(self)
        _require_stds(self)
        _require(
            self.embed_dim >= 4 and self.embed_dim % 4 == 0,
            f"embed_dim is {self.embed_dim}, but must be divisible by 4, for half of it holds "
            "the sines and cosines of a coordinate; give a multiple of 4.",
        )
        _require(
            0 < self.min_period <= self.max_period,
            f"min_period is {self.min_period} and max_period is {self.max_period}; give positive numbers, "
            "the first not larger than the second.",
        )


@dataclasses.dataclass(frozen=True)
class SpectrumMLPConfig:
    """Sizes of `SpectrumMLP`; the defaults are the authors' for ImageNet 256 x 256.

    Attributes:
      base_size: height and width in pixels, or one number for both, of the largest image. Smaller
        images use the low frequencies of its spectrum.
      num_channels: channels of a pixel, D of the mixture.
      widths: widths of the hidden layers.
      param_dtype: type of the parameters. The network computes in float32.
    """

    base_size: int | tuple[int, int] = 32
    num_channels: int = 4
    widths: tuple[int, ...] = (64, 8)
    param_dtype: str = "float32"

    def __post_init__(self):
        size = self.base_size
        _require(
            (isinstance(size, int) or len(size) == 2) and min(self.base_height_width) >= 1,
            f"base_size is {size!r}; give one number of pixels, or (height, width), at least 1.",
        )
        _require_positive(self, ("num_channels",))
        _require(
            len(self.widths) >= 1 and min(self.widths) >= 1,
            f"widths is {self.widths!r}, but it lists the widths of the hidden layers; give one number "
            "for each, at least 1.",
        )
        _require_dtypes(self, ("param_dtype",))

    @property
    def base_height_width(self) -> tuple[int, int]:
        """`base_size` as (height, width)."""
        return _height_width(self.base_size)
