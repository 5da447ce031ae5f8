"""Configuration of the autoencoder. Its values are checked when it is made."""

import dataclasses
import math

from gmflow_jax.models._config import _require, _require_dtypes, _require_positive

_PRECISIONS = ("highest", "high", "default")


@dataclasses.dataclass(frozen=True)
class AutoencoderKLConfig:
    """Sizes and options of `AutoencoderKL`; the defaults are those of stabilityai/sd-vae-ft-ema.

    Attributes:
      in_channels: channels of an image to encode.
      out_channels: channels of a decoded image.
      latent_channels: channels of a latent.
      block_channels: number of channels in each stage of the encoder; the decoder uses them in reverse
        order. Every stage of the encoder but the last halves height and width.
      layers_per_block: residual blocks in each stage of the encoder. A stage of the decoder has one more.
      num_groups: number of groups of the group normalisation.
      scaling_factor: factor that gives latents about unit variance. `AutoencoderKL` does not apply it.
      dtype: type that the blocks compute in. Normalisation, the convolutions before and after the
        blocks and the outputs are float32.
      param_dtype: type of the parameters.
      precision: precision of float32 products on accelerators, see `jax.default_matmul_precision`. 'highest'
        is float32. With simulated rounding, 'high' changes a decoded pixel by under .01 of 255 levels as on a
        TPU, and by .5 as on an NVIDIA GPU; 'default' by up to 3. The TPU's compiler estimates .6 and .35 of
        the time for a convolution. It does not affect a `dtype` of 16 bits. Checkpoints do not store it.
    """

    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_channels: tuple[int, ...] = (128, 256, 512, 512)
    layers_per_block: int = 2
    num_groups: int = 32
    scaling_factor: float = 0.18215
    dtype: str = "float32"
    param_dtype: str = "float32"
    precision: str = "highest"

    def __post_init__(self):
        names = ("in_channels", "out_channels", "latent_channels", "layers_per_block", "num_groups")
        _require_positive(self, names)
        _require_dtypes(self)
        _require(
            self.precision in _PRECISIONS,
            f"precision is {self.precision!r}; give one of {', '.join(_PRECISIONS)}.",
        )
        _require(
            len(self.block_channels) >= 1
            and all(n >= 1 and n % self.num_groups == 0 for n in self.block_channels),
            f"block_channels is {self.block_channels!r}, but it lists the channels of each stage, which "
            f"are normalised in {self.num_groups} groups; give one or more positive multiples of num_groups.",
        )
        _require(
            self.scaling_factor > 0 and math.isfinite(self.scaling_factor),
            f"scaling_factor is {self.scaling_factor}, but latents are divided by it before decoding; "
            "give a positive number.",
        )

    @property
    def downscale(self) -> int:
        """Ratio of an image's height to that of its latent."""
        return 2 ** (len(self.block_channels) - 1)
