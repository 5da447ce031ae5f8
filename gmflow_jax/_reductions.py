"""Sums, maxima and softmax over short axes (components, channels), written slice by slice.

XLA on CPUs turns a reduction over a short axis, such as `jnp.sum` over 8 components, into a separate
library call, many times slower than a fused loop. The functions here add slices along the axis instead
(x[..., 0] + x[..., 1] + ...). These additions are elementwise, so XLA fuses them with the operations that
produce the terms and with those that use the sum.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

# Axes up to this size are reduced slice by slice, larger ones first to an eighth of their size.
_MAX_SLICES = 16


def sum_slices(term: Callable[[slice], jax.Array], size: int, axis: int) -> jax.Array:
    """Sum the array term(slice(None)) over an axis without forming it.

    Args:
      term: term(part) returns the part of the array that the slice `part` selects along the axis.
      size: size of the axis.
      axis: the axis of term's result to sum over.

    Returns:
      The sum, without the axis.
    """
    return jnp.squeeze(fold_slices(jnp.add, term, size, axis), axis)


def fold_slices(combine: Callable, term: Callable[[slice], jax.Array], size: int, axis: int) -> jax.Array:
    """Reduce an array over an axis by any associative and commutative operation.

    Args:
      combine: the operation on two arrays, such as `jnp.add` or `jnp.maximum`.
      term: as in `sum_slices`.
      size: size of the axis.
      axis: the axis of term's result to reduce.

    Returns:
      The reduced array; the axis stays with size 1.
    """
    if size <= _MAX_SLICES:
        return functools.reduce(combine, [term(slice(i, i + 1)) for i in range(size)])
    step = size // 8
    folded = functools.reduce(combine, [term(slice(i * step, (i + 1) * step)) for i in range(8)])
    rest = [term(slice(i, i + 1)) for i in range(8 * step, size)]
    return functools.reduce(combine, rest, fold_slices(combine, _parts(folded, axis), step, axis))


def sum_keeping(x: jax.Array, axis: int = -1) -> jax.Array:
    """Sum over an axis; the axis stays with size 1."""
    return fold_slices(jnp.add, _parts(x, axis), x.shape[axis], axis)


def shifted_exp(logits: jax.Array, axis: int = -1) -> tuple[jax.Array, jax.Array]:
    """Exponentiate logits after subtracting the largest along an axis, so that nothing overflows.

    Args:
      logits: any shape.
      axis: the axis along which the largest is taken.

    Returns:
      exp(logits - largest), and the largest, with size 1 along the axis. No gradient is taken of it.
    """
    largest = jax.lax.stop_gradient(fold_slices(jnp.maximum, _parts(logits, axis), logits.shape[axis], axis))
    largest = stored(largest)
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    return jnp.exp(logits - largest), largest


def stored(x: jax.Array) -> jax.Array:
    """Return x, or NaN where it is infinite, in a form that XLA for CPUs computes only once.

    XLA computes the operands of a fused loop anew for each element that reads them, unless their last
    operation is expensive. A sum over components that is read for each component would take K times as long.
    The last operation here is a division by 1, which XLA does not recognise. With few optimisations XLA
    divides to 12 bits only, so this is for numbers whose value does not matter if all uses share it.
    """
    return x / jax.lax.stop_gradient(1 + 0 * x)


def log_softmax(logits: jax.Array, axis: int = -1) -> jax.Array:
    """Return logits - log(sum(exp(logits))) over an axis."""
    powers, largest = shifted_exp(logits, axis)
    # Subtract the shift first: added to a large shift, the logarithm would lose its digits.
    return (logits - largest) - jnp.log(sum_keeping(powers, axis))


def _parts(x: jax.Array, axis: int) -> Callable[[slice], jax.Array]:
    return lambda part: jax.lax.slice_in_dim(x, part.start, part.stop, axis=axis)
