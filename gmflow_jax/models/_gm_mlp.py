"""A multilayer perceptron that predicts a Gaussian mixture over points."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, zeros

from gmflow_jax.gm import GaussianMixture
from gmflow_jax.models._auto_axes import with_auto_axes
from gmflow_jax.models._config import GMMLPConfig
from gmflow_jax.models._embeddings import batch_time, point_features, time_features
from gmflow_jax.models._layers import MLP, he_normal, normal_or_zeros
from gmflow_jax.models._linear import Linear


class GMMLP(nnx.Module):
    """Multilayer perceptron that predicts a Gaussian mixture over the velocity of points.

    The inputs are sines and cosines of the time and the coordinates. Hidden layers with SiLU follow, and
    one linear layer each for the means, the log-weights and the log standard deviation.

    Args:
      config: sizes and options of the network.
      rngs: random number generators for the initial parameters.

    Source:
      The checkerboard network of the authors' code.
    """

    def __init__(self, config: GMMLPConfig, rngs: nnx.Rngs):
        self.config = config
        num_features = config.embed_dim + config.num_dims * (config.embed_dim // 2)
        self.trunk = MLP(
            (num_features, *(config.width,) * config.depth),
            rngs,
            kernel_init=he_normal,
            dtype=config.dtype,
            param_dtype=config.param_dtype,
            precision=None,
        )

        def head(num_outputs: int, kernel_init: Initializer, bias_init: Initializer = zeros) -> Linear:
            return Linear(
                config.width,
                num_outputs,
                dtype="float32",
                param_dtype=config.param_dtype,
                precision="highest",
                kernel_init=kernel_init,
                bias_init=bias_init,
                rngs=rngs,
            )

        self.means = head(
            config.num_components * config.num_dims,
            kernel_init=he_normal,
            bias_init=normal_or_zeros(config.means_bias_std),
        )
        self.log_weights = head(config.num_components, kernel_init=zeros)
        if config.constant_log_std is None:
            self.log_std = head(1, kernel_init=zeros)

    @with_auto_axes
    def __call__(self, x_t: jax.Array, t: jax.Array | float) -> GaussianMixture:
        """Predict the velocity at noisy points.

        Args:
          x_t: noisy points, [B, D].
          t: time in [0, 1], a scalar or [B].

        Returns:
          Mixture over the velocity: means [B, K, D], log_weights [B, K] and log_std [B], always float32.

        Raises:
          ValueError: if a shape does not fit.
        """
        config = self.config
        if x_t.ndim != 2 or x_t.shape[-1] != config.num_dims:
            raise ValueError(
                f"x_t has shape {x_t.shape}, but the network needs [B, {config.num_dims}]; "
                "give one row for each point."
            )
        batch = x_t.shape[0]
        time = time_features(batch_time(t, batch), config.embed_dim, freq_shift=1)
        periods = (config.embed_dim // 4, config.min_period, config.max_period)
        points = point_features(x_t.astype(jnp.float32), *periods)
        x = jax.nn.silu(self.trunk(jnp.concatenate([time, points], axis=-1)))
        if config.constant_log_std is None:
            log_std = self.log_std(x)[:, 0]
        else:
            log_std = jnp.full((batch,), config.constant_log_std, jnp.float32)
        return GaussianMixture(
            self.means(x).reshape(batch, config.num_components, config.num_dims),
            jax.nn.log_softmax(self.log_weights(x), axis=-1),
            log_std,
        )
