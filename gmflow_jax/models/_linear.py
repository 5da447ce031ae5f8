"""A linear layer that is fast on CPUs and rounds its products as accelerators do."""

from typing import Any

import jax
from flax import nnx

from gmflow_jax.models._rounded import Dimensions, rounded_product


def _product(x: jax.Array, y: jax.Array, dimension_numbers: Dimensions, **options: Any) -> jax.Array:
    if x.dtype.itemsize == 2:
        return rounded_product(x, y, dimension_numbers)
    return jax.lax.dot_general(x, y, dimension_numbers, **options)


class Linear(nnx.Linear):
    """`nnx.Linear` that flattens the leading axes of its input, [..., features], to multiply two matrices.

    Parameters and results are those of `nnx.Linear`, but it is faster on a CPU: the gradient takes half
    the time for an input of three axes, and 16-bit products take a fraction of it.

    Args:
      *args: arguments of `nnx.Linear`.
      **options: arguments of `nnx.Linear` by name.
    """

    def __init__(self, *args, **options):
        super().__init__(*args, dot_general=_product, **options)

    def __call__(self, x: jax.Array) -> jax.Array:  # pyright: ignore[reportIncompatibleMethodOverride] no out_sharding
        return super().__call__(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], self.out_features)
