"""A linear layer that is fast on CPUs and rounds its products as accelerators do."""

import jax
import jax.numpy as jnp
from flax import nnx


def _rounded_product(x: jax.Array, y: jax.Array, dimensions, **options) -> jax.Array:
    """Compute `jax.lax.dot_general`; on a CPU, sum 16-bit products in float32 and round the result once.

    Accelerators do so anyway. On a CPU with matrix instructions (AMX) XLA uses them only for a float32
    result; a 16-bit result takes nine times as long. In the backward pass, one factor of each product is
    float32 and the other has 16 bits. A program that is exported on a CPU keeps this form on other devices.
    """
    if x.dtype.itemsize == 2 and jax.devices()[0].platform == "cpu":
        options["preferred_element_type"] = jnp.float32
    return jax.lax.dot_general(x, y, dimensions, **options).astype(x.dtype)


class Linear(nnx.Linear):
    """`nnx.Linear` that flattens the leading axes of its input, [..., features], to multiply two matrices.

    Parameters and results are those of `nnx.Linear`, but it is faster on a CPU: the gradient takes half
    the time for an input of three axes, and 16-bit products take a fraction of it.

    Args:
      *args: arguments of `nnx.Linear`.
      **options: arguments of `nnx.Linear` by name.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, dot_general=_rounded_product, **options)

    def __call__(self, x: jax.Array) -> jax.Array:  # pyright: ignore[reportIncompatibleMethodOverride] no out_sharding
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.out_features)
