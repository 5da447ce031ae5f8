"""Guided denoisers, the form in which solvers take guidance, and both predictions by one network call."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gmflow_jax._arguments import as_whole, concrete, expand_time, join_aux, split_aux
from gmflow_jax._meshes import broadcast_like, rows_like, where
from gmflow_jax.guidance._formulas import classifier_free_guidance, expand_scale, probabilistic_guidance
from gmflow_jax.guidance._methods import METHODS, USUAL_ORTHOGONAL, check_guidance_scale, check_method


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
    return jax.tree.leaves(axes, is_leaf=lambda axis: axis is None)


def _shared(leaf: jax.Array, null) -> jax.Array:
    known, other = concrete(leaf), concrete(null)
    if known is not None and other is not None and not np.array_equal(known, other):
        raise ValueError(
            f"batch_axes marks a condition of shape {leaf.shape} as shared by all samples, but "
            "null_condition has other values for it. Give the same array in both, or a batch axis."
        )
    return leaf


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
        prediction = self.denoise(_interleave(x_t, x_t), times, self.both)

        def half(i):
            def of(leaf):  # a log_std that all samples share has no batch axis of size 2 B
                shared = not leaf.ndim or leaf.shape[0] != 2 * x_t.shape[0]
                return leaf if shared else jax.lax.slice_in_dim(leaf, i, None, stride=2)

            return jax.tree.map(of, prediction)

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
                "condition for each sample, and a scalar time or one for each."
            )
        return t


def _like_condition(null, condition: jax.Array) -> jax.Array:
    """Broadcast a null condition to the conditions, in their dtype."""
    null = jnp.asarray(null)
    sizes = zip(null.shape, condition.shape, strict=False)
    if null.ndim not in (0, condition.ndim) or any(n not in (1, m) for n, m in sizes):
        raise ValueError(
            f"null_condition has shape {null.shape}, but condition has shape {condition.shape}: give the "
            "same axes, each of the same size or of size 1, or a scalar."
        )
    plain = null.weak_type and not null.ndim  # a Python number
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


def guided_denoiser(
    denoise: Callable,
    denoise_uncond: Callable | None,
    scale: jax.Array | float,
    method: str = "probabilistic",
    orthogonal: float | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    sample_axes: tuple[int, ...] | None = None,
) -> Callable:
    """Combine a conditional and an unconditional denoiser into one guided denoise(x_t, t).

    Args:
      denoise: (x_t, t) -> conditional GaussianMixture over x_0, or a pair of it and an aux, which is returned
        beside the guided prediction.
      denoise_uncond: (x_t, t) -> unconditional GaussianMixture over x_0. None if `denoise` returns both
        predictions, as the result of `in_one_batch` does.
      scale: guidance scale. For 'probabilistic' in [0, 1), where 0 means no guidance; for 'cfg' usually at
        least 1, where 1 means no guidance. It may be traced, so that another scale needs no compilation.
      method: 'probabilistic' (`probabilistic_guidance`) or 'cfg' (`classifier_free_guidance` of x_0).
      orthogonal: share of the difference's component parallel to the conditional mean that is removed, 0 to
        1. None means 1 for 'probabilistic' and 0, plain classifier-free guidance, for 'cfg'.
      interval: times (low, high) between which guidance acts, both ends included. Outside it the
        unconditional network is not called (`jax.lax.cond`), unless `jax.vmap` over the times turns the
        branch into a selection, for which both networks run. With one time per sample it is called if any of
        them is inside.
      sample_axes: axes of one sample, over which variances and mean squares are taken: (1, 2) for
        [B, H, W, D]. None takes all batch axes but the first.

    Returns:
      denoise(x_t, t) -> `Guided` for 'probabilistic', GaussianMixture for 'cfg'; or, if the scale is known to
      mean no guidance, the conditional denoiser itself, so that no unconditional call is made.

    Raises:
      ValueError: if the method is unknown, interval is not 0 <= low <= high <= 1, or the scale of
        'probabilistic' is outside [0, 1). The scale of 'cfg' and a traced scale are not checked.

    Source:
      GMFlow (arXiv 2504.05304), eq. 7-8; Kynkaanniemi et al. 2024 (arXiv 2404.07724) for the interval.

    Example:
      >>> import jax.numpy as jnp
      >>> from gmflow_jax import flow, guidance, solvers
      >>> cond = flow.denoiser(lambda x, t: x - 1)  # stands for a network with the label
      >>> uncond = flow.denoiser(lambda x, t: x)  # and without
      >>> denoise = guidance.guided_denoiser(cond, uncond, scale=0.3)
      >>> x_0 = solvers.sample(None, denoise, jnp.ones((4, 2)), solvers.gm_ode(), flow.time_grid(4))
      >>> x_0.shape
      (4, 2)
    """
    check_method(method)
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(f"interval must be (low, high) with 0 <= low <= high <= 1, not {interval}.")
    if method == "probabilistic":
        check_guidance_scale(scale)
    combine = _FORMULAS[method]
    orthogonal = USUAL_ORTHOGONAL[method] if orthogonal is None else orthogonal
    conditional, both = _parts(denoise, denoise_uncond)
    off, known_scale = METHODS[method], concrete(scale)
    if known_scale is not None and np.all(known_scale == off):
        return conditional

    def guided(x_t: jax.Array, t: jax.Array):
        t = jnp.asarray(t)
        inside = expand_time((t >= low) & (t <= high), x_t.shape[:-1])
        active = where(inside, expand_scale(jnp.asarray(scale), x_t.shape[:-1]), off)

        def with_guidance():
            (cond, aux), (uncond, _) = map(split_aux, both(x_t, t))
            cond, uncond = rows_like((cond, uncond), x_t)
            with jax.named_scope("guidance"):
                return join_aux(combine(cond, uncond, active, orthogonal, sample_axes), aux)

        def without():  # the same formula, so that both branches return the same types
            prediction, aux = split_aux(conditional(x_t, t))
            prediction = rows_like(prediction, x_t)
            return join_aux(combine(prediction, prediction, active, orthogonal, sample_axes), aux)

        def without_in_dtypes():  # which may differ if only the unconditional prediction is float64
            types = jax.eval_shape(with_guidance)
            return jax.tree.map(lambda a, b: a.astype(b.dtype), without(), types)

        known = np.True_ if (low, high) == (0, 1) else concrete(inside)
        if known is None:
            return jax.lax.cond(jnp.any(inside), with_guidance, without_in_dtypes)
        return with_guidance() if np.any(known) else without()

    return guided


_FORMULAS = {"probabilistic": probabilistic_guidance, "cfg": classifier_free_guidance}


def _parts(denoise: Callable, denoise_uncond: Callable | None) -> tuple[Callable, Callable]:
    """Return (x_t, t) -> the conditional prediction, and (x_t, t) -> both predictions."""
    if denoise_uncond is not None:
        return denoise, lambda x_t, t: (denoise(x_t, t), denoise_uncond(x_t, t))
    alone = denoise.conditional if isinstance(denoise, OneBatch) else lambda x_t, t: denoise(x_t, t)[0]
    return alone, denoise
