"""Both predictions that guidance needs by one network call on a batch of twice the size."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmflow_jax._arguments import as_whole, concrete, join_aux, split_aux
from gmflow_jax._meshes import broadcast_like


def in_one_batch(denoise: Callable, condition, null_condition, batch_axes=0) -> "OneBatch":
    """Make the conditional and the unconditional prediction with one network call on a batch of 2 B.

    Args:
      denoise: (x_t, t, condition) -> prediction, called with 2 B samples and conditions.
      condition: pytree of arrays [B, ...], such as labels.
      null_condition: the same pytree for unconditional predictions, such as null labels. Its arrays may have
        axes of size 1, or be scalars, which all samples share.
      batch_axes: the axis of size B of each array, a pytree prefix of the conditions as the `in_axes` of
        `jax.vmap`: 1 for a cache of keys and values [layers, B, ...]. None marks what all samples share;
        it is taken from `condition` for both predictions.

    Returns:
      predict(x_t, t) -> (conditional prediction, unconditional prediction), for x_t [B, ..., D]. Pass it to
      `guided_denoiser` with denoise_uncond=None. Its attribute `conditional` makes the conditional prediction
      alone, with B samples.

    Raises:
      ValueError: if the conditions or batch_axes do not fit each other; by predict, if the numbers of
        samples, conditions or times differ.

    Example:
      >>> import jax.numpy as jnp
      >>> from gmflow_jax import flow, guidance
      >>> condition = {"label": jnp.array([1, 2, 3]), "cache": jnp.ones((12, 3, 8))}  # [layers, B, ...]
      >>> null = {"label": 0, "cache": jnp.zeros(())}
      >>> def denoise(x, t, condition):  # stands for a network
      ...     return flow.denoiser(lambda x, t: x + condition["cache"].mean(axis=(0, 2))[:, None])(x, t)
      >>> both = guidance.in_one_batch(denoise, condition, null, batch_axes={"label": 0, "cache": 1})
      >>> [q.means.shape for q in both(jnp.zeros((3, 2)), 0.5)]
      [(3, 1, 2), (3, 1, 2)]
    """
    if jax.tree.structure(condition) != jax.tree.structure(null_condition):
        raise ValueError(
            "condition and null_condition must be the same pytree, but their structures are "
            f"{jax.tree.structure(condition)} and {jax.tree.structure(null_condition)}."
        )
    leaves, treedef = jax.tree.flatten(condition)
    leaves, nulls = [jnp.asarray(leaf) for leaf in leaves], jax.tree.leaves(null_condition)
    axes = [_batch_axis(axis, leaf) for axis, leaf in zip(_axes(batch_axes, condition), leaves, strict=True)]
    both = [
        _shared(leaf, null) if axis is None else _interleave(leaf, _like_condition(null, leaf), axis)
        for leaf, null, axis in zip(leaves, nulls, axes, strict=True)
    ]
    sizes = tuple(leaf.shape[axis] for leaf, axis in zip(leaves, axes, strict=True) if axis is not None)
    return OneBatch(denoise, treedef.unflatten(leaves), treedef.unflatten(both), sizes)


def _axes(batch_axes, condition) -> list[int | None]:
    """Return the batch axis of each array of the conditions."""
    try:
        axes = jax.tree.broadcast(batch_axes, condition, is_leaf=lambda axis: axis is None)
    except ValueError as error:
        raise ValueError(
            f"batch_axes is {batch_axes}, which is no prefix of the condition's pytree "
            f"{jax.tree.structure(condition)}. Give one axis for all arrays, or one for each."
        ) from error
    return jax.tree.structure(condition).flatten_up_to(axes)  # a None in the condition is no leaf


def _shared(leaf: jax.Array, null) -> jax.Array:
    known, other = concrete(leaf), concrete(null)
    if known is not None and other is not None and not _equal(known, other):
        raise ValueError(
            f"batch_axes marks a condition of shape {leaf.shape} as shared by all samples, but "
            "null_condition has other values for it. Give the same array in both, or a batch axis."
        )
    return leaf


def _equal(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether b, broadcast to a, has the same values."""
    return b.ndim <= a.ndim and bool(np.all((a == b) | ((a != a) & (b != b))))


def _batch_axis(axis: int | None, leaf: jax.Array) -> int | None:
    if axis is None:
        return None
    number = None if isinstance(axis, bool) else as_whole(axis)
    if number is None or not -leaf.ndim <= number < leaf.ndim:
        raise ValueError(
            f"batch_axes names axis {axis!r} for a condition of shape {leaf.shape}: give the number of "
            "its axis of size B, or None for an array that all samples share."
        )
    return number % leaf.ndim


@dataclasses.dataclass(frozen=True, eq=False)
class OneBatch:
    """The result of `in_one_batch`.

    Attributes:
      denoise: (x_t, t, condition) -> prediction.
      condition: pytree of arrays with a batch axis of size B, the first unless `batch_axes` was given.
      both: the same pytree with 2 B. Conditional and unconditional ones alternate: if the batch is split over
        devices, both copies of a sample then stay on its device.
      sizes: the numbers of samples in the conditions.
    """

    denoise: Callable
    condition: Any
    both: Any
    sizes: tuple[int, ...]

    def __call__(self, x_t: jax.Array, t: jax.Array):
        """Return the conditional and the unconditional prediction."""
        t = self._checked_time(x_t, t)
        times = _interleave(t, t) if t.ndim else t
        prediction, aux = split_aux(self.denoise(_interleave(x_t, x_t), times, self.both))
        # A log_std that all samples share has no batch axis. That of an aux may be anywhere.
        axes = jax.tree.map(lambda leaf: _first_axis(leaf, 2 * x_t.shape[0]), prediction)
        aux_axes = ()
        if aux:
            alone = jax.eval_shape(lambda x_t, t: split_aux(self.conditional(x_t, t))[1], x_t, t)
            aux, aux_axes = jax.tree.map(jnp.asarray, aux), jax.tree.map(_doubled_axis, aux, alone)

        def half(i):
            def of(leaf, axis):
                return leaf if axis < 0 else jax.lax.slice_in_dim(leaf, i, None, stride=2, axis=axis)

            return join_aux(jax.tree.map(of, prediction, axes), jax.tree.map(of, aux, aux_axes))

        return half(0), half(1)

    def conditional(self, x_t: jax.Array, t: jax.Array):
        """Return the conditional prediction alone, by a network call on B samples."""
        return self.denoise(x_t, self._checked_time(x_t, t), self.condition)

    def _checked_time(self, x_t: jax.Array, t: jax.Array) -> jax.Array:
        t = jnp.asarray(t)
        sizes = [*self.sizes, *t.shape[:1]]
        if set(sizes) - {x_t.shape[0]}:
            raise ValueError(
                f"x_t has {x_t.shape[0]} samples, but conditions and times are for {sizes}: give one "
                "condition for each sample, and a scalar time or one for each. If the batch axis of a "
                "condition is not the first, name it by batch_axes, such as 1 for a cache [layers, B, ...]."
            )
        return t


def _first_axis(leaf: jax.Array, size: int) -> int:
    """Return 0 if the first axis of an array has that size, else -1."""
    return 0 if leaf.shape[:1] == (size,) else -1


def _doubled_axis(leaf, alone: jax.ShapeDtypeStruct) -> int:
    """Return the axis that is twice as long as that of the conditional call alone, or -1."""
    return next((i for i, n in enumerate(jnp.shape(leaf)) if n != alone.shape[i]), -1)


def _like_condition(null, condition: jax.Array) -> jax.Array:
    """Broadcast a null condition to the conditions, in their dtype."""
    null = jnp.asarray(null)
    sizes = zip(null.shape, condition.shape, strict=False)
    if null.ndim not in (0, condition.ndim) or any(n not in (1, m) for n, m in sizes):
        raise ValueError(
            f"null_condition has shape {null.shape}, but condition has shape {condition.shape}: give the "
            "same axes, each of the same size or of size 1, or a scalar."
        )
    plain = getattr(null, "weak_type", False) and not null.ndim  # a Python number
    is_float = [jnp.issubdtype(dtype, jnp.floating) for dtype in (null.dtype, condition.dtype)]
    if not plain and is_float[0] != is_float[1]:
        raise ValueError(
            f"null_condition has dtype {null.dtype}, but condition has {condition.dtype}: give both as "
            "integers or both as floats."
        )
    return broadcast_like(null.astype(condition.dtype if plain else null.dtype), condition)


def _interleave(a: jax.Array, b: jax.Array, axis: int = 0) -> jax.Array:
    with jax.numpy_dtype_promotion("standard"):
        pairs = jnp.stack([a, b], axis=axis + 1)
    return pairs.reshape(*a.shape[:axis], 2 * a.shape[axis], *a.shape[axis + 1 :])
