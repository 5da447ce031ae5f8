"""Networks in Flax NNX: those that predict Gaussian mixtures, the power spectrum's, the autoencoder.

Make a network from its configuration, `model = GMDiT(config, nnx.Rngs(0))`, and call it, or take it
apart by `apply, params = functional(model)` and use plain jax transformations on the dict of arrays.
"""

from gmflow_jax.models._autoencoder import AutoencoderKL as AutoencoderKL
from gmflow_jax.models._autoencoder_config import AutoencoderKLConfig as AutoencoderKLConfig
from gmflow_jax.models._config import DIT_SIZES as DIT_SIZES
from gmflow_jax.models._config import GMDiTConfig as GMDiTConfig
from gmflow_jax.models._config import GMMLPConfig as GMMLPConfig
from gmflow_jax.models._config import SpectrumMLPConfig as SpectrumMLPConfig
from gmflow_jax.models._config import gm_dit_config as gm_dit_config
from gmflow_jax.models._cost import PEAK_FLOPS as PEAK_FLOPS
from gmflow_jax.models._cost import forward_flops as forward_flops
from gmflow_jax.models._cost import peak_flops as peak_flops
from gmflow_jax.models._functional import abstract as abstract
from gmflow_jax.models._functional import fingerprint as fingerprint
from gmflow_jax.models._functional import from_params as from_params
from gmflow_jax.models._functional import functional as functional
from gmflow_jax.models._functional import init_params as init_params
from gmflow_jax.models._functional import num_params as num_params
from gmflow_jax.models._gm_dit import GMDiT as GMDiT
from gmflow_jax.models._gm_mlp import GMMLP as GMMLP
from gmflow_jax.models._inception import InceptionFeatures as InceptionFeatures
from gmflow_jax.models._inception import InceptionV3 as InceptionV3
from gmflow_jax.models._pixels import depth_to_space as depth_to_space
from gmflow_jax.models._pixels import space_to_depth as space_to_depth
from gmflow_jax.models._spectrum import SpectrumMLP as SpectrumMLP
