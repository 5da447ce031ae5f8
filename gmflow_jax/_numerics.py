"""Helpers for dtypes, shapes and safe gradients, shared by the layers that need jax only."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# Axes up to this size are reduced slice by slice, larger ones first to an eighth of their size.
_MAX_SLICES = 16


def promote(*values):
    """Cast every array in `values` (pytrees allowed) to float32, or to float64 if one is float64."""
    dtypes = [
        jax.dtypes.canonicalize_dtype(leaf.dtype)
        for leaf in jax.tree.leaves(values)
        if hasattr(leaf, "dtype")
        and not isinstance(leaf, float)  # np.float64 is a Python float
        and not getattr(leaf, "weak_type", False)
    ]
    dtype = jnp.float64 if jnp.dtype(jnp.float64) in dtypes else jnp.float32
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), values)


def append_axes(value: jax.Array, count: int) -> jax.Array:
    """Append `count` axes of size 1; a scalar stays one, since it broadcasts with any rank."""
    return value if value.ndim == 0 else value.reshape(value.shape + (1,) * count)


def safe_sqrt(x: jax.Array) -> jax.Array:
    """sqrt(max(x, 0)) whose gradient is 0, not infinite, where x <= 0."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def safe_log(x: jax.Array) -> jax.Array:
    """log(x), -inf at x <= 0 with gradient 0 there: the gradient 1/0 would turn 0 * inf into NaN."""
    positive = x > 0
    return jnp.where(positive, jnp.log(jnp.where(positive, x, 1.0)), -jnp.inf)


@jax.custom_jvp
def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    return numerator / denominator


@_ratio.defjvp
def _ratio_jvp(primals, tangents):
    # jax's own rule divides by denominator^2, which underflows below 1e-19 in float32.
    ratio = primals[0] / primals[1]
    return ratio, (tangents[0] - ratio * tangents[1]) / primals[1]


def safe_divide(numerator: jax.Array, denominator: jax.Array, otherwise: float = 0.0) -> jax.Array:
    """numerator / denominator, and `otherwise` with gradient 0 where the denominator is 0."""
    nonzero = denominator != 0
    return jnp.where(nonzero, _ratio(numerator, jnp.where(nonzero, denominator, 1.0)), otherwise)


def concrete(value) -> np.ndarray | None:
    """The value as numpy, or None while it is traced: value checks run only where they are free."""
    return None if isinstance(value, jax.core.Tracer) else np.asarray(value)


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


def log_softmax(logits: jax.Array, axis: int = -1) -> jax.Array:
    """logits - log(sum(exp(logits))) over an axis."""
    powers, largest = shifted_exp(logits, axis)
    # The shift first: together with a large one the logarithm would lose its digits.
    return (logits - largest) - jnp.log(sum_keeping(powers, axis))


def sum_keeping(x: jax.Array, axis: int = -1) -> jax.Array:
    """The sum over an axis, slice by slice; the axis stays with size 1."""
    return fold_slices(jnp.add, _parts(x, axis), x.shape[axis], axis)


def shifted_exp(logits: jax.Array, axis: int = -1) -> tuple[jax.Array, jax.Array]:
    """exp(logits - largest), and the largest along the axis, a constant, which stays with size 1."""
    largest = jax.lax.stop_gradient(fold_slices(jnp.maximum, _parts(logits, axis), logits.shape[axis], axis))
    largest = jnp.where(jnp.isfinite(largest), largest, 0.0)
    return jnp.exp(logits - largest), largest


def _parts(x: jax.Array, axis: int) -> Callable[[slice], jax.Array]:
    return lambda part: jax.lax.slice_in_dim(x, part.start, part.stop, axis=axis)


def expand_time(t: jax.Array, batch_shape: tuple[int, ...], name: str = "t") -> jax.Array:
    """Give a time (a scalar or [B]) the rank of the batch axes, aligned with the leading one."""
    if t.ndim == 0:
        return t
    if t.ndim == 1 and batch_shape and t.shape[0] == batch_shape[0]:
        return t.reshape(t.shape + (1,) * (len(batch_shape) - 1))
    raise ValueError(
        f"{name} has shape {t.shape}, which does not fit the batch axes {batch_shape}: a time is a "
        f"scalar or has one value for each entry of the leading batch axis. Pass a scalar"
        + (f" or shape ({batch_shape[0]},)." if batch_shape else ".")
    )


def check_times_ordered(t, s, allow_equal: bool = False) -> None:
    """Refuse s >= t (s > t if `allow_equal`) where both are known.

    s = t = 0 always passes: there every map is the identity.
    """
    t, s = concrete(t), concrete(s)
    if t is None or s is None:
        return
    wrong = s > t if allow_equal else (s >= t) & ~((s == 0) & (t == 0))
    if np.any(wrong):
        raise ValueError(
            f"s must be the less noisy time, s < t, but s = {s} and t = {t} were given. Swap them, "
            "or leave out the step where they are equal."
        )


def check_same_shape(**arrays) -> None:
    """Refuse arrays of unlike shapes instead of broadcasting them silently."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"These arrays must have the same shape: {listing}. Broadcast or reshape them first."
        )
