"""Building blocks shared by the networks: initialisers, a multilayer perceptron, the DiT block."""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, normal, zeros
from jax.sharding import AxisType, PartitionSpec

from gmflow_jax.models._config import GMDiTConfig
from gmflow_jax.models._linear import Linear

ParamsT = TypeVar("ParamsT")
xavier_uniform = jax.nn.initializers.xavier_uniform()
he_normal = jax.nn.initializers.variance_scaling(2.0, "fan_in", "normal")


def uniform_of_fans(fan_in: int, fan_out: int) -> Initializer:
    """Make Xavier's uniform initialiser with given fans, for a matrix that is a part of a larger one."""
    limit = (6.0 / (fan_in + fan_out)) ** 0.5

    def init(key, shape, dtype=jnp.float32, out_sharding=None):
        del out_sharding
        return jax.random.uniform(key, shape, dtype, -limit, limit)

    return init


def normal_or_zeros(std: float) -> Initializer:
    """Make a normal initialiser of standard deviation `std`, or zeros if `std` is 0."""
    return normal(std) if std else zeros


def layer_norm(x: jax.Array, eps: float) -> jax.Array:
    """Normalise the last axis without learned scale or shift. Statistics are float32."""
    y = x.astype(jnp.float32)
    y = y - y.mean(axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.square(y).mean(axis=-1, keepdims=True) + eps)
    return y.astype(x.dtype)


def modulate(x: jax.Array, shift: jax.Array, scale: jax.Array) -> jax.Array:
    """Compute `x * (1 + scale) + shift`, where all tokens of a sample share scale and shift.

    Args:
      x: tokens, [B, T, D].
      shift: [B, D].
      scale: [B, D].

    Returns:
      [B, T, D].
    """
    return x * (1 + scale[:, None]) + shift[:, None]


def attention(query: jax.Array, key: jax.Array, value: jax.Array, implementation: str) -> jax.Array:
    """Compute softmax attention over all tokens, with weights computed in float32.

    Args:
      query: [B, T, heads, head_dim].
      key: like `query`.
      value: like `query`.
      implementation: 'xla'; 'cudnn' for the fused kernel, which needs a 16-bit type and an NVIDIA GPU; or
        'auto' for 'cudnn' if JAX's default device supports it, else 'xla'. A program compiled for a
        device other than the default one should not use 'auto'.

    Returns:
      [B, T, heads, head_dim] in the type of `value`.
    """
    if implementation == "cudnn" or (implementation == "auto" and _fits_cudnn(query)):
        return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")
    # Written out because the 'xla' form of jax.nn refuses bfloat16 under strict dtype promotion, and takes
    # three times as long on a CPU. In float32, the query is scaled instead of the logits, and the result is
    # divided instead of the weights, because these are the smaller arrays. In 16 bits, scaling would round
    # the query, and the undivided sum could overflow float16.
    scale, is_narrow = query.shape[-1] ** -0.5, query.dtype.itemsize == 2
    query = query if is_narrow else query * scale
    query, key, value = (jnp.swapaxes(x, 1, 2) for x in (query, key, value))
    logits = jnp.einsum(
        "bhqd,bhdk->bhqk", query, jnp.swapaxes(key, 2, 3), preferred_element_type=jnp.float32
    )
    largest = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True))
    weights = jnp.exp((logits - largest) * scale if is_narrow else logits - largest)
    total = jnp.sum(weights, axis=-1, keepdims=True)
    if is_narrow:
        weights, total = (weights / total).astype(value.dtype), 1
    # Computed in the type of the values, so that the products of the backward pass have this type too.
    y = jnp.einsum("bhqk,bhkd->bhqd", weights, value) / total
    return jnp.swapaxes(y, 1, 2)


def _fits_cudnn(query: jax.Array) -> bool:
    """Whether the default device is an NVIDIA GPU (Ampere or newer) whose cuDNN kernel takes this query."""
    device, head_dim = jax.devices()[0], query.shape[-1]
    capability = getattr(device, "compute_capability", "0") if device.platform == "gpu" else "0"
    is_nvidia = capability.replace(".", "", 1).isdigit()  # AMD's capability is a name, such as gfx90a
    fits = query.dtype.itemsize == 2 and head_dim % 8 == 0 and head_dim <= 128
    return is_nvidia and float(capability) >= 8 and fits


def gather_block(params: ParamsT) -> ParamsT:
    """Gather a block's sharded parameters if the mesh of `jax.set_mesh` has an axis 'fsdp'.

    Without such a mesh the parameters are returned as they are. Without this constraint XLA would move
    the activations to the shards instead. See `gmflow_jax.sharding`.
    """
    return params if _fsdp_axes() is None else jax.lax.with_sharding_constraint(params, PartitionSpec())


def split_batch(x: jax.Array) -> jax.Array:
    """Shard the first axis over all devices if the mesh of `jax.set_mesh` has an axis 'fsdp'."""
    axes = _fsdp_axes()
    return x if axes is None else jax.lax.with_sharding_constraint(x, PartitionSpec(axes))


def _fsdp_axes() -> tuple[str, ...] | None:
    mesh = jax.sharding.get_abstract_mesh()
    is_fsdp = "fsdp" in mesh.axis_names and set(mesh.axis_types) == {AxisType.Auto}
    return mesh.axis_names if is_fsdp else None


class MLP(nnx.Module):
    """Linear layers named `layer_0`, `layer_1`, ... with SiLU between them, but not after the last.

    Maps [..., sizes[0]] to [..., sizes[-1]].

    Args:
      sizes: widths from input to output.
      rngs: random number generators for the initial parameters.
      kernel_init: initialiser of the kernels.
      last_init: initialiser of the last layer's kernel; `kernel_init` by default.
      dtype: type to compute in.
      param_dtype: type of the parameters.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        rngs: nnx.Rngs,
        *,
        kernel_init: Initializer = xavier_uniform,
        last_init: Initializer | None = None,
        dtype: str = "float32",
        param_dtype: str = "float32",
    ):
        self.num_layers = len(sizes) - 1
        for i in range(self.num_layers):
            is_last = i == self.num_layers - 1
            init = last_init if is_last and last_init is not None else kernel_init
            layer = Linear(
                sizes[i], sizes[i + 1], kernel_init=init, dtype=dtype, param_dtype=param_dtype, rngs=rngs
            )
            # Named attributes, because nnx.List would give the dict of parameters integer keys.
            setattr(self, f"layer_{i}", layer)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.num_layers):
            x = getattr(self, f"layer_{i}")(jax.nn.silu(x) if i else x)
        return x


class DiTBlock(nnx.Module):
    """Transformer block with adaLN-Zero conditioning.

    Maps tokens [B, T, hidden_size] and a conditioning [B, hidden_size], to which SiLU has been
    applied, to tokens of the same shape and dtype. At initialisation it is the identity.

    Args:
      config: sizes and options of the network.
      rngs: random number generators for the initial parameters.

    Source:
      Peebles and Xie 2023 (arXiv 2212.09748), section 3.2.
    """

    def __init__(self, config: GMDiTConfig, rngs: nnx.Rngs):
        self.num_heads = config.num_heads
        self.implementation = config.attention
        size, inner = config.hidden_size, int(config.hidden_size * config.mlp_ratio)

        def linear(size_in: int, size_out: int, init: Initializer = xavier_uniform) -> Linear:
            return Linear(
                size_in,
                size_out,
                kernel_init=init,
                dtype=config.dtype,
                param_dtype=config.param_dtype,
                rngs=rngs,
            )

        self.modulation = linear(size, 6 * size, zeros)
        self.query = linear(size, size)
        self.key = linear(size, size)
        self.value = linear(size, size)
        self.attention_out = linear(size, size)
        self.mlp_in = linear(size, inner)
        self.mlp_out = linear(inner, size)

    def __call__(self, x: jax.Array, conditioning: jax.Array) -> jax.Array:
        values = jnp.split(self.modulation(conditioning), 6, axis=-1)
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = values
        y = modulate(layer_norm(x, 1e-6), shift_1, scale_1)
        x = x + gate_1[:, None] * self._attend(y)
        # The two norms differ in epsilon, as in the network that the authors trained.
        y = modulate(layer_norm(x, 1e-5), shift_2, scale_2)
        y = self.mlp_out(jax.nn.gelu(self.mlp_in(y), approximate=True))
        return x + gate_2[:, None] * y

    def _attend(self, x: jax.Array) -> jax.Array:
        batch, tokens, size = x.shape
        heads = (batch, tokens, self.num_heads, size // self.num_heads)
        query, key, value = (f(x).reshape(heads) for f in (self.query, self.key, self.value))
        y = attention(query, key, value, self.implementation)
        return self.attention_out(y.reshape(x.shape))
