"""Building blocks shared by the networks: initialisers, a multilayer perceptron, the DiT block."""

from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.nn.initializers import Initializer, normal, zeros
from jax.sharding import AxisType, PartitionSpec

from gmflow_jax.models._attention import attention
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


def gather_block(params: ParamsT) -> ParamsT:
    """Gather a block's sharded parameters if the mesh of `jax.set_mesh` has an axis 'fsdp'.

    Without such a mesh the parameters are returned as they are. Without this constraint XLA would move
    the activations to the shards instead. The gradient is not gathered. With such a mesh, `jax.jvp` is
    not defined. See `gmflow_jax.sharding`.
    """
    return params if _fsdp_axes() is None else _gather(params)


@jax.custom_vjp
def _gather(params: ParamsT) -> ParamsT:
    return jax.lax.with_sharding_constraint(params, PartitionSpec())


_gather.defvjp(lambda params: (_gather(params), None), lambda _, cotangent: (cotangent,))


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
      precision: precision of float32 products on accelerators, see `jax.default_matmul_precision`; None is
        JAX's default.
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
        precision: str | None = "highest",
    ):
        self.num_layers = len(sizes) - 1
        for i in range(self.num_layers):
            is_last = i == self.num_layers - 1
            init = last_init if is_last and last_init is not None else kernel_init
            layer = Linear(
                sizes[i],
                sizes[i + 1],
                kernel_init=init,
                dtype=dtype,
                param_dtype=param_dtype,
                precision=precision,
                rngs=rngs,
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
        with jax.named_scope("modulation"):
            values = jnp.split(self.modulation(conditioning), 6, axis=-1)
            shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = values
            y = modulate(layer_norm(x, 1e-6), shift_1, scale_1)
        with jax.named_scope("attention"):
            x = x + gate_1[:, None] * self._attend(y)
        with jax.named_scope("modulation"):
            # The two norms differ in epsilon, as in the network that the authors trained.
            y = modulate(layer_norm(x, 1e-5), shift_2, scale_2)
        with jax.named_scope("mlp"):
            y = self.mlp_out(jax.nn.gelu(self.mlp_in(y), approximate=True))
            return x + gate_2[:, None] * y

    def _attend(self, x: jax.Array) -> jax.Array:
        query, key, value = (f(x, self.num_heads) for f in (self.query, self.key, self.value))
        y = attention(query, key, value, self.implementation)
        return self.attention_out(y.reshape(x.shape))
