"""A linear layer whose products are fast on CPUs and rounded as on accelerators."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array


def _rounded_product(x: Array, y: Array, dimensions, **options) -> Array:
    """`jax.lax.dot_general` of 16-bit arrays, summed in float32 and rounded once, as accelerators do it.

    For a 16-bit result XLA takes nine times as long as for a float32 one on a CPU that has matrix
    instructions (AMX): only for the latter it uses them. The gradient's products are of float32 and 16 bits.
    A program exported on a CPU keeps this form.
    """
    if x.dtype.itemsize == 2 and jax.devices()[0].platform == "cpu":
        options["preferred_element_type"] = jnp.float32
    return jax.lax.dot_general(x, y, dimensions, **options).astype(x.dtype)


class Linear(nnx.Linear):
    """`nnx.Linear` that multiplies one matrix, [everything else, features].

    The same parameters, but on a CPU XLA's gradient of the product of a 3-axis array takes twice the time,
    and a 16-bit product several times as much.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, dot_general=_rounded_product, **options)

    def __call__(self, x: Array) -> Array:
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.out_features)
