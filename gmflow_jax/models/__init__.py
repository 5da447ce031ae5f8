"""Networks in Flax NNX: GM-DiT, a mixture MLP, the spectrum network, the autoencoder and Inception.

A network is made from its configuration: `model = GMDiT(config, nnx.Rngs(0))`. Call it, or split it by
`apply, params = functional(model)` and use plain JAX transformations on the dict of arrays.
"""

from gmflow_jax.models._autoencoder import AutoencoderKL
from gmflow_jax.models._autoencoder_config import AutoencoderKLConfig
from gmflow_jax.models._components import repeat_components
from gmflow_jax.models._config import DIT_SIZES, GMDiTConfig, GMMLPConfig, SpectrumMLPConfig, gm_dit_config
from gmflow_jax.models._cost import PEAK_FLOPS, forward_flops, peak_flops
from gmflow_jax.models._functional import (
    abstract,
    fingerprint,
    from_params,
    functional,
    init_params,
    num_params,
)
from gmflow_jax.models._gm_dit import GMDiT
from gmflow_jax.models._gm_mlp import GMMLP
from gmflow_jax.models._inception import InceptionFeatures, InceptionV3
from gmflow_jax.models._pixels import depth_to_space, space_to_depth
from gmflow_jax.models._spectrum import SpectrumMLP

__all__ = [
    "DIT_SIZES", "GMMLP", "PEAK_FLOPS", "AutoencoderKL", "AutoencoderKLConfig", "GMDiT",
    "GMDiTConfig", "GMMLPConfig", "InceptionFeatures", "InceptionV3", "SpectrumMLP",
    "SpectrumMLPConfig", "abstract", "depth_to_space", "fingerprint", "forward_flops",
    "from_params", "functional", "gm_dit_config", "init_params", "num_params", "peak_flops",
    "repeat_components", "space_to_depth",
]
