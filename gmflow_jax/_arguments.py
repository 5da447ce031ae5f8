"""Handling of arguments: promotion to one dtype, broadcasting of times, and checks with clear errors."""

import dataclasses
import operator
from typing import Any, TypeVar, TypeVarTuple, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike

_Tree = TypeVar("_Tree")
_Trees = TypeVarTuple("_Trees")


@overload  # An array is a tree, too, so the overloads overlap:
def promote(*values: ArrayLike) -> tuple[jax.Array, ...]: ...  # pyright: ignore[reportOverlappingOverload]
@overload
def promote(tree: _Tree, /, *values: ArrayLike) -> tuple[_Tree, *tuple[jax.Array, ...]]: ...
@overload
def promote(*values: *_Trees) -> tuple[*_Trees]: ...
def promote(*values):
    """Cast every array in `values` (pytrees allowed) to float32, or to float64 if one of them is float64."""
    dtype = _promoted_dtype(values)
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), values)


def _promoted_dtype(values) -> jnp.dtype:
    dtypes = [
        jax.dtypes.canonicalize_dtype(leaf.dtype)
        for leaf in jax.tree.leaves(values)
        if hasattr(leaf, "dtype")
        and not isinstance(leaf, float)  # np.float64 is a Python float
        and not getattr(leaf, "weak_type", False)
    ]
    return jnp.dtype(jnp.float64 if jnp.dtype(jnp.float64) in dtypes else jnp.float32)


def split_aux(result: Any) -> tuple[Any, tuple]:
    """Split what a network returns into its prediction and, in a tuple, its aux if it returns a pair."""
    return (result[0], result[1:]) if type(result) is tuple and len(result) == 2 else (result, ())


def join_aux(prediction: Any, aux: tuple) -> Any:
    """Put the aux of `split_aux` beside another prediction."""
    return (prediction, *aux) if aux else prediction


def append_axes(value: jax.Array, count: int) -> jax.Array:
    """Append `count` axes of size 1. A scalar is returned unchanged, since it broadcasts with any rank."""
    return value if value.ndim == 0 else value.reshape(value.shape + (1,) * count)


def expand_time(t: jax.Array, batch_shape: tuple[int, ...], name: str = "t") -> jax.Array:
    """Reshape a time so that it broadcasts with the batch axes.

    Args:
      t: a scalar, or [B] with one value for each entry of the leading batch axis.
      batch_shape: sizes of the batch axes.
      name: the argument's name for error messages.

    Returns:
      A scalar, or [B, 1, ..., 1] of the rank of the batch axes.

    Raises:
      ValueError: if t has another shape.
    """
    if t.ndim == 0:
        return t
    if t.ndim == 1 and batch_shape and t.shape[0] == batch_shape[0]:
        return t.reshape(t.shape + (1,) * (len(batch_shape) - 1))
    raise ValueError(
        f"{name} has shape {t.shape}, which does not fit the batch axes {batch_shape}: it must be a "
        f"scalar or have one value for each entry of the leading batch axis. Pass a scalar"
        + (f" or shape ({batch_shape[0]},)." if batch_shape else ".")
    )


def concrete(value: ArrayLike) -> np.ndarray | None:
    """Return the value as a NumPy array, or None if it is traced, where its value cannot be checked."""
    is_known = not isinstance(value, Tracer) and getattr(value, "is_fully_addressable", True)
    return np.asarray(value) if is_known else None


def check_number(name: str, value: ArrayLike, interval: str) -> None:
    """Raise unless a number, or each number of an array, is in an interval. Traced ones are not checked.

    Args:
      name: name of the number, for the message.
      value: the number, or an array.
      interval: such as '[0, 1)', which includes 0 and excludes 1, or '(0, inf)'. NaN is in no interval.

    Raises:
      ValueError: if the number is not in the interval.
    """
    if not is_within(value, interval):
        raise ValueError(f"{name} is {value}, but must be in {interval}; give a number from this interval.")


def is_within(value: ArrayLike, interval: str) -> bool:
    """Return whether a value is traced, or is a number, or an array of numbers, in an interval."""
    known = concrete(value)
    if known is None:
        return True
    low, high = map(float, interval[1:-1].split(","))
    try:
        above = known >= low if interval[0] == "[" else known > low
        below = known <= high if interval[-1] == "]" else known < high
    except TypeError:  # a text or None
        return False
    return bool(np.all(above & below))


def as_whole(value: Any) -> int | None:
    """Convert an int, or an integer scalar of NumPy or JAX, to an int; return None for anything else."""
    try:
        return operator.index(value)
    except TypeError:
        return None


def whole_number(name: str, value: Any, least: int, largest: int | None = None) -> int:
    """Convert a number that counts something to an int.

    Args:
      name: name of the number, for the message.
      value: an int, or an integer scalar of NumPy or JAX.
      least: the smallest number that is allowed.
      largest: the largest one; None is no limit.

    Returns:
      The number.

    Raises:
      ValueError: if it is no whole number or out of range.
    """
    number = as_whole(value)
    if number is None or number < least or (largest is not None and number > largest):
        limits = f"at least {least}" if largest is None else f"from {least} to {largest}"
        raise ValueError(f"{name} is {value!r}, but must be a whole number, {limits}.")
    return number


def finite_number(name: str, value: Any) -> float:
    """Convert a number to a float.

    Args:
      name: name of the number, for the message.
      value: a number, or a scalar of NumPy or JAX.

    Returns:
      The number.

    Raises:
      ValueError: if it is no number, not finite, or an array with axes.
    """
    try:
        number = np.asarray(value, np.float64)
    except (TypeError, ValueError):
        number = np.empty(1)
    if isinstance(value, str) or number.ndim or not np.isfinite(number):
        raise ValueError(f"{name} is {value!r}, but must be one finite number.")
    return float(number)


def checked_state(name: str, x: Any) -> jax.Array:
    """Check that a state is one array of floats with a channel axis.

    Args:
      name: name of the argument, for the message.
      x: the state, [*batch, D].

    Returns:
      The state as a JAX array.

    Raises:
      ValueError: if it is anything else.
    """
    is_array = isinstance(x, (jax.Array, np.ndarray))
    if is_array and x.ndim and jnp.issubdtype(x.dtype, jnp.floating):
        return jnp.asarray(x)
    if is_array:
        given = f"an array of {x.dtype} with shape {x.shape}"
        advice = "Convert it with .astype(jnp.float32)." if x.ndim else "Add the axis of channels."
    else:
        given = f"of type {type(x).__name__}"
        advice = "Give floats, for example jax.random.normal(key, shape)."
        if isinstance(x, (dict, list, tuple)) or dataclasses.is_dataclass(x):
            advice = "Join the arrays of each sample, by jax.vmap of jax.flatten_util.ravel_pytree."
    raise ValueError(f"{name} is {given}, but must be one array of floats, [*batch, D]. {advice}")


def check_callable(
    function: Any, name: str = "denoise", form: str = "(x_t, t) -> GaussianMixture over x_0"
) -> None:
    """Raise ValueError unless a function of that form can be called."""
    if not callable(function):
        hint = ", such as flow.denoiser makes from a network" if name == "denoise" else ""
        raise ValueError(
            f"{name} is of type {type(function).__name__}, which cannot be called. Give a function "
            f"{form}{hint}."
        )


def check_labels(labels: ArrayLike, num_classes: int, allow_null: bool = False) -> None:
    """Raise unless all labels are classes. Traced labels are not checked.

    Args:
      labels: integers of any shape.
      num_classes: number of classes, and the null label.
      allow_null: whether the null label, which means "no class", is allowed. Without classes it always is.

    Raises:
      ValueError: if a label is negative or too large.
    """
    value = concrete(labels)
    if value is None or not value.size:
        return
    low, high = value.min(), value.max()
    if low < 0 or high > (num_classes if allow_null or not num_classes else num_classes - 1):
        null = f"{num_classes} for no class"
        classes = f"from 0 to {num_classes - 1}{f', or {null}' * allow_null}" if num_classes else null
        raise ValueError(
            f"The labels are from {low} to {high}, but num_classes is {num_classes}, so that a label must be "
            f"{classes}. Count the classes from 0, and set num_classes to their number."
        )


def check_times_ordered(t: ArrayLike, s: ArrayLike, allow_equal: bool = False) -> None:
    """Raise unless s < t. Traced times are not checked.

    s = t = 0 is always allowed: there every transition is the identity.

    Args:
      t: the noisier time.
      s: the less noisy time.
      allow_equal: whether s = t is allowed.

    Raises:
      ValueError: if the times are in the wrong order.
    """
    known = known_times(t, s)
    if known is None:
        return
    t_value, s_value = known
    both_zero = (s_value == 0) & (t_value == 0)
    wrong = s_value > t_value if allow_equal else (s_value >= t_value) & ~both_zero
    if np.any(wrong):
        raise ValueError(
            f"s must be the less noisy time, s < t, but s = {s_value} and t = {t_value} were given. "
            "Swap them, or leave out the step where they are equal."
        )


def known_times(*times: ArrayLike) -> list[np.ndarray] | None:
    """Return times as NumPy arrays, to compare them, in the dtype to which `promote` casts them.

    In another dtype 0.7 would differ from float32(0.7).

    Returns:
      The times; None if one is traced, or is neither a scalar nor [B], which `expand_time` refuses.
    """
    known = [concrete(t) for t in times]
    dtype = _promoted_dtype(times)
    arrays = [t.astype(dtype) for t in known if t is not None]
    sizes = {t.size for t in arrays if t.ndim}
    fit = len(sizes) <= 1 and all(t.ndim <= 1 for t in arrays)
    return arrays if fit and len(arrays) == len(times) else None


def check_same_shape(**arrays: jax.Array) -> None:
    """Raise unless all arrays have the same shape; without this check they might broadcast silently."""
    shapes = {name: array.shape for name, array in arrays.items()}
    if len(set(shapes.values())) > 1:
        listing = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(
            f"These arrays must have the same shape: {listing}. Broadcast or reshape them first."
        )
