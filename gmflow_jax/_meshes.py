"""Broadcasting and selection for arrays that are split over the Explicit axes of a mesh.

On Explicit axes, the default of `jax.make_mesh`, the sharding of an array is part of its type. Arithmetic
accepts a whole array beside a split one, but `jnp.where` and `jax.vmap` refuse it, and `jnp.broadcast_to`
leaves new axes whole. The functions here add zeros that are split as needed; XLA removes these additions. For
other arrays they are the plain functions.
"""

import functools
from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

_Tree = TypeVar("_Tree")


def broadcast_like(value: jax.Array, x: jax.Array) -> jax.Array:
    """Broadcast a scalar or an array of the rank of x to the shape of x, split over devices as x is."""
    if not _is_split(x):
        return jnp.broadcast_to(value, x.shape)
    zeros = jnp.zeros_like(x, value.dtype)
    return value | zeros if value.dtype == bool else value + zeros


def rows_like(tree: _Tree, x: jax.Array) -> _Tree:
    """Split the arrays of a tree that have the leading axis of x over devices as that axis is split."""
    if x.ndim < 2 or not _is_split(x):
        return tree
    zeros = leading_like(jnp.zeros((), jnp.int32), x)

    def split(leaf: jax.Array) -> jax.Array:
        if not leaf.ndim or leaf.shape[0] != x.shape[0]:
            return leaf
        return leaf + zeros.reshape(-1, *(1,) * (leaf.ndim - 1)).astype(leaf.dtype)

    return jax.tree.map(split, tree)


def reshard_like(value: jax.Array, old: jax.Array) -> jax.Array:
    """Split an array over Explicit axes as another one of its shape is, or make it whole if that one is."""
    sharding = jax.typeof(old).sharding
    same = jax.typeof(value).sharding == sharding or not (_is_split(value) or _is_split(old))
    return value if same else jax.sharding.reshard(value, sharding)


def leading_like(value: jax.Array, x: jax.Array) -> jax.Array:
    """Broadcast a scalar or [B] to [B] for x [B, ..., D], split over devices as the leading axis of x is.

    An x without batch axes, [D], gives a scalar.
    """
    if x.ndim < 2 or not _is_split(x):
        return jnp.broadcast_to(value, x.shape[:-1][:1])
    return broadcast_like(value, jnp.sum(jnp.zeros_like(x, jnp.int32), axis=tuple(range(1, x.ndim))))


def where(condition: jax.Array, a: ArrayLike, b: ArrayLike) -> jax.Array:
    """`jnp.where` for scalars and arrays of one rank, of which some may be split."""
    arrays = [v for v in (condition, a, b) if jnp.ndim(v)]
    if not any(map(_is_split, arrays)):
        return jnp.where(condition, a, b)
    zeros = functools.reduce(jnp.add, [jnp.zeros_like(v, jnp.int8) for v in arrays])

    def split(value: ArrayLike) -> ArrayLike:
        return broadcast_like(jnp.asarray(value), zeros) if jnp.ndim(value) else value

    return jnp.where(split(condition), split(a), split(b))


def varying_axes(x: ArrayLike) -> frozenset:
    """Return the axes of `jax.shard_map` over which x varies; their attribute depends on JAX's release."""
    kind = jax.typeof(x)
    return getattr(getattr(kind, "manual_axis_type", None), "varying", getattr(kind, "vma", frozenset()))


def vary_alike(tree: _Tree) -> _Tree:
    """Let all arrays of a tree vary over the axes of `jax.shard_map` over which any of them varies.

    Elementwise operations do this by themselves; loops, conditionals and primitives of our own do not.
    """
    axes = frozenset().union(*map(varying_axes, jax.tree.leaves(tree)))

    def vary(x: jax.Array) -> jax.Array:
        lacking = tuple(axes - varying_axes(x))
        return jax.lax.pcast(x, lacking, to="varying") if lacking else x

    return jax.tree.map(vary, tree)


def _is_split(x: ArrayLike) -> bool:
    """Whether an array is split over Explicit axes, or varies over the Manual axes of `jax.shard_map`."""
    kind = jax.typeof(x)
    spec = getattr(kind.sharding, "spec", ())
    return any(entry is not None for entry in spec) or bool(varying_axes(x))
