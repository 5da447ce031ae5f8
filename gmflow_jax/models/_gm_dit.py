"""GM-DiT: a diffusion transformer that predicts a Gaussian mixture for every pixel."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, normal, zeros

from gmflow_jax._arguments import check_labels
from gmflow_jax.gm import GaussianMixture
from gmflow_jax.models._auto_axes import with_auto_axes
from gmflow_jax.models._config import GMDiTConfig
from gmflow_jax.models._embeddings import batch_time, position_table, time_features
from gmflow_jax.models._layers import (
    MLP,
    DiTBlock,
    gather_block,
    layer_norm,
    modulate,
    normal_or_zeros,
    split_batch,
    uniform_of_fans,
    xavier_uniform,
)
from gmflow_jax.models._linear import Linear
from gmflow_jax.models._pixels import depth_to_space, space_to_depth

TIME_FEATURES = 256


class GMDiT(nnx.Module):
    """Diffusion transformer that predicts a Gaussian mixture over the velocity of every pixel.

    A DiT with adaLN-Zero blocks. A small MLP on the embedding of time and class predicts one log
    standard deviation per sample; its gradient is not propagated into the embedding. The parameters of
    all blocks are stacked along a leading axis.

    The null label, which means "no class", is `config.num_classes`: it follows the classes, which count from
    0, and has the last row of `class_embed`. Guidance takes it as the condition of the unconditional
    prediction, and training puts it in place of dropped labels.

    Args:
      config: sizes and options of the network.
      rngs: random number generators for the initial parameters.

    Source:
      GMFlow (arXiv 2504.05304), section 3 and figure 4; Peebles and Xie 2023 (arXiv 2212.09748).

    Example:
      >>> import jax.numpy as jnp
      >>> from flax import nnx
      >>> from gmflow_jax import models
      >>> config = models.GMDiTConfig(
      ...     input_size=8, hidden_size=16, depth=1, num_heads=2, num_classes=10, num_components=3
      ... )
      >>> model = models.GMDiT(config, nnx.Rngs(0))
      >>> q = model(jnp.zeros((2, 8, 8, 4)), t=0.5, labels=jnp.array([1, 7]))
      >>> q.means.shape, q.log_weights.shape, q.log_std.shape
      ((2, 8, 8, 3, 4), (2, 8, 8, 3), (2, 1, 1))
    """

    def __init__(self, config: GMDiTConfig, rngs: nnx.Rngs):
        self.config = config
        size, param_dtype = config.hidden_size, config.param_dtype

        # All but the blocks computes in float32, which costs little and keeps the outputs accurate. On TPUs
        # this takes a precision: by default, the factors of float32 products are rounded to bfloat16.
        def linear(
            size_in: int, size_out: int, kernel_init: Initializer, bias_init: Initializer = zeros
        ) -> Linear:
            return Linear(
                size_in,
                size_out,
                dtype="float32",
                param_dtype=param_dtype,
                precision="highest",
                kernel_init=kernel_init,
                bias_init=bias_init,
                rngs=rngs,
            )

        self.patch_embed = linear(
            config.patch_size**2 * config.in_channels, size, kernel_init=xavier_uniform
        )
        self.time_mlp = MLP(
            (TIME_FEATURES, size, size), rngs, kernel_init=normal(0.02), param_dtype=param_dtype
        )
        self.class_embed = nnx.Embed(
            config.num_classes + 1,
            size,
            embedding_init=normal(0.02),
            dtype="float32",
            param_dtype=param_dtype,
            rngs=rngs,
        )
        self.blocks = _stacked_blocks(config, rngs)
        self.out_modulation = linear(size, 2 * size, kernel_init=zeros)

        pixels, num_components = config.patch_size**2, config.num_components
        num_means = pixels * num_components * config.in_channels
        num_log_weights = pixels * num_components
        joint = config.head == "joint"
        # The authors' joint head is one matrix, and the limit of Xavier's initialiser depends on the width
        # of the whole matrix.
        means_init = uniform_of_fans(size, num_means + num_log_weights if joint else num_means)
        self.means = linear(
            size, num_means, kernel_init=means_init, bias_init=normal_or_zeros(config.means_bias_std)
        )
        self.log_weights = linear(size, num_log_weights, kernel_init=means_init if joint else zeros)
        if config.constant_log_std is None:
            hidden = (config.log_std_dim,) * (config.log_std_layers - 1)
            self.log_std = MLP((size, *hidden, 1), rngs, last_init=zeros, param_dtype=param_dtype)

    @with_auto_axes
    def __call__(
        self, x_t: jax.Array, t: jax.Array | float, labels: jax.Array | None = None
    ) -> GaussianMixture:
        """Predict the velocity at noisy images.

        Args:
          x_t: noisy images, [B, H, W, C]. H and W may be any multiples of the patch size.
          t: time in [0, 1], a scalar or [B].
          labels: classes, integers [B] from 0. The null label `config.num_classes` means "no class"; None
            gives it to all samples.

        Returns:
          Mixture over the velocity: means [B, H, W, K, C], log_weights [B, H, W, K] and log_std
          [B, 1, 1], always float32.

        Raises:
          ValueError: if a shape does not fit, or a label that is not traced is neither a class nor the null
            label.
        """
        labels = self._check(x_t, labels)
        config = self.config
        batch, height, width, _ = x_t.shape
        grid = (height // config.patch_size, width // config.patch_size)
        with jax.named_scope("embedding"):
            conditioning = self._condition(batch_time(t, batch), labels)
            x = self.patch_embed(space_to_depth(x_t, config.patch_size))
            x = x.reshape(batch, -1, config.hidden_size)
            base_height, base_width = config.input_height_width
            base_grid = (base_height // config.patch_size, base_width // config.patch_size)
            x = x + position_table(grid, base_grid, config.hidden_size)[None]
            activated = jax.nn.silu(conditioning)
        x = self._run_blocks(x.astype(config.dtype), activated).astype(jnp.float32)
        with jax.named_scope("head"):
            return self._predict_mixture(x, grid, conditioning, activated)

    def _predict_mixture(
        self, x: jax.Array, grid: tuple[int, int], conditioning: jax.Array, activated: jax.Array
    ) -> GaussianMixture:
        """Map tokens [B, T, hidden_size] to the mixture of each pixel."""
        config = self.config
        shift, scale = jnp.split(self.out_modulation(activated), 2, axis=-1)
        x = modulate(layer_norm(x, 1e-6), shift, scale)
        x = x.reshape(x.shape[0], *grid, config.hidden_size)
        means = depth_to_space(self.means(x), config.patch_size)
        log_weights = depth_to_space(self.log_weights(x), config.patch_size)
        return GaussianMixture(
            means.reshape(*log_weights.shape[:3], config.num_components, config.in_channels),
            jax.nn.log_softmax(log_weights, axis=-1),
            self._predict_log_std(conditioning),
        )

    def _check(self, x_t: jax.Array, labels: jax.Array | None) -> jax.Array:
        """Raise ValueError if a shape or a label does not fit; return the labels as an array."""
        config = self.config
        if x_t.ndim != 4 or x_t.shape[-1] != config.in_channels:
            raise ValueError(
                f"x_t has shape {x_t.shape}, but the network needs [B, H, W, "
                f"{config.in_channels}]; give in_channels channels, channels last."
            )
        batch, height, width, _ = x_t.shape
        if height % config.patch_size or width % config.patch_size:
            raise ValueError(
                f"x_t has {height} x {width} pixels, but both must be divisible by patch_size "
                f"{config.patch_size}; pad or crop it to multiples of patch_size."
            )
        if labels is None:
            return jnp.full((batch,), config.num_classes, jnp.int32)
        labels = jnp.asarray(labels)
        if labels.shape != (batch,) or not jnp.issubdtype(labels.dtype, jnp.integer):
            raise ValueError(
                f"labels have shape {labels.shape} and type {labels.dtype}, but x_t has {batch} "
                f"samples; give one integer for each, shape ({batch},)."
            )
        check_labels(labels, config.num_classes, allow_null=True)
        return labels

    def _condition(self, t: jax.Array, labels: jax.Array) -> jax.Array:
        features = time_features(t, TIME_FEATURES, scale=self.config.time_scale)
        return self.time_mlp(features) + self.class_embed(labels)

    def _predict_log_std(self, conditioning: jax.Array) -> jax.Array:
        """Predict [B, 1, 1] from the embedding, without a gradient into the embedding."""
        batch = conditioning.shape[0]
        if self.config.constant_log_std is not None:
            return jnp.full((batch, 1, 1), self.config.constant_log_std, jnp.float32)
        log_std = self.log_std(jax.nn.silu(jax.lax.stop_gradient(conditioning)))
        return log_std.reshape(batch, 1, 1)

    def _run_blocks(self, x: jax.Array, conditioning: jax.Array) -> jax.Array:
        graphdef, params = nnx.split(self.blocks)

        def run(x: jax.Array, block_params) -> tuple[jax.Array, None]:
            block = nnx.merge(graphdef, gather_block(block_params))
            return split_batch(block(x, conditioning)), None

        config = self.config
        if config.remat not in (False, "none"):
            dots = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
            policy = dots if config.remat == "dots" else None
            # prevent_cse adds a barrier, which is of no use inside a scan and costs time there.
            run = jax.checkpoint(run, prevent_cse=not config.scan_layers, policy=policy)
        if config.scan_layers:
            return jax.lax.scan(run, x, params)[0]
        # The gradient of unstack is one stack. The gradient of indexing would be a sum of `depth` padded
        # arrays.
        leaves, treedef = jax.tree.flatten(params)
        for block_leaves in zip(*(jnp.unstack(leaf) for leaf in leaves), strict=True):
            x, _ = run(x, treedef.unflatten(block_leaves))
        return x


def _stacked_blocks(config: GMDiTConfig, rngs: nnx.Rngs) -> DiTBlock:
    @nnx.split_rngs(splits=config.depth)
    @nnx.vmap(in_axes=(nnx.StateAxes({nnx.RngState: 0, ...: None}),))
    def create(rngs: nnx.Rngs) -> DiTBlock:
        return DiTBlock(config, rngs)

    return create(rngs)
