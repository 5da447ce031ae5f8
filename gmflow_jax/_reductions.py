"""Sums, maxima and softmax over short axes, written so that XLA fuses them."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

# Axes up to this size are reduced slice by slice, larger ones first to an eighth of their size.
_MAX_SLICES = 16


def sum_slices(term: Callable[[slice], jax.Array], size: int, axis: int) -> jax.Array:
    """Sum over `axis`, of `size`, of the array term(slice(None)), which is never formed.

    term(part) is that part of it along the axis. XLA fuses a sum of slices with what they are made of
    and with what follows; a reduction over a short axis it computes apart, on CPUs many times slower.
    """
    return jnp.squeeze(fold_slices(jnp.add, term, size, axis), axis)


def fold_slices(combine: Callable, term: Callable[[slice], jax.Array], size: int, axis: int) -> jax.Array:
    """`sum_slices` for any associative and commutative operation; the axis stays with size 1."""
    if size <= _MAX_SLICES:
        return functools.reduce(combine, [term(slice(i, i + 1)) for i in range(size)])
    step = size // 8
    folded = functools.reduce(combine, [term(slice(i * step, (i + 1) * step)) for i in range(8)])
    rest = [term(slice(i, i + 1)) for i in range(8 * step, size)]
    return functools.reduce(combine, rest, fold_slices(combine, _parts(folded, axis), step, axis))


def sum_keeping(x: jax.Array, axis: int = -1) -> jax.Array:
    """The sum over an axis, slice by slice; the axis stays with size 1."""
    return fold_slices(jnp.add, _parts(x, axis), x.shape[axis], axis)


def shifted_exp(logits: jax.Array, axis: int = -1) -> tuple[jax.Array, jax.Array]:
    """exp(logits - largest), and the largest along the axis, a constant, which stays with size 1."""
    largest = jax.lax.stop_gradient(fold_slices(jnp.maximum, _parts(logits, axis), logits.shape[axis], axis))
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    return jnp.exp(logits - largest), largest


def log_softmax(logits: jax.Array, axis: int = -1) -> jax.Array:
    """logits - log(sum(exp(logits))) over an axis."""
    powers, largest = shifted_exp(logits, axis)
    # The shift first: together with a large one the logarithm would lose its digits.
    return (logits - largest) - jnp.log(sum_keeping(powers, axis))


def _parts(x: jax.Array, axis: int) -> Callable[[slice], jax.Array]:
    return lambda part: jax.lax.slice_in_dim(x, part.start, part.stop, axis=axis)
