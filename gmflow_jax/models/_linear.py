"""A linear layer whose products are fast on every platform and are rounded once."""

import jax
import jax.numpy as jnp
from flax import nnx

from gmflow_jax.models._product import product


class Linear(nnx.Linear):
    """`nnx.Linear` by `product`, with which gradients of the parameters have the type of the parameters.

    The parameters and the results are those of `nnx.Linear` with a bias and a `dtype`. Of its other options,
    `param_dtype`, `precision` and the initialisers are used.
    """

    def __call__(self, x: jax.Array, num_heads: int | None = None) -> jax.Array:  # pyright: ignore[reportIncompatibleMethodOverride] no out_sharding
        """Apply the layer.

        Args:
          x: [..., in_features].
          num_heads: number of parts of the result, or None. XLA for TPUs chooses the layout of the axes of a
            product; if it had to split its last axis afterwards, it would copy the result.

        Returns:
          [..., out_features], or [..., num_heads, out_features / num_heads].
        """
        assert self.bias is not None  # for type checkers; no layer here is made without
        kernel, bias = self.kernel[...], self.bias[...]
        if num_heads is not None:
            kernel, bias = (v.reshape(*v.shape[:-1], num_heads, -1) for v in (kernel, bias))
        x = x.astype(self.dtype)
        y = product(x, kernel, (((x.ndim - 1,), (0,)), ((), ())), self.precision)
        # The bias is rounded after it is broadcast, so that its gradient is summed before it is rounded.
        return y + jnp.broadcast_to(bias, y.shape).astype(y.dtype)
