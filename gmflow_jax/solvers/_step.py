"""Solvers from a step function: steps from noise to data, at rest, and from data to noise."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gmflow_jax._arguments import (
    append_axes,
    check_callable,
    checked_state,
    expand_time,
    known_times,
    promote,
)
from gmflow_jax._meshes import reshard_like, where
from gmflow_jax.solvers._base import Solver

# Why some solvers go only from noise to data.
STOCHASTIC = "its draws lead only to less noisy times"
POSTERIOR = (
    "it moves its prediction by the posterior of the mixture, which a prediction gives only for less noisy "
    "times; at noisier ones its errors would grow like 1 / t^2, and a component might have no variance at all"
)


@dataclasses.dataclass(frozen=True, eq=False)
class Step:
    """The step of a solver of this package; its points and states keep their dtypes.

    Attributes:
      function: the step, which may return other dtypes than it was given.
      only_to_data: why it goes only from noise to data; None if it goes both ways.
    """

    function: Callable
    only_to_data: str | None

    def __call__(self, key, denoise, x_t, t, s, state):
        """Make a step, as in `Solver`, which may go to data, rest, or go to noise."""
        x_t = checked_state("x_t", x_t)
        check_callable(denoise)
        move = begin(x_t, t, s, self.only_to_data)
        new, treedef = self._flat(key, denoise, move.x_t, move.t, move.s, state)
        return treedef.unflatten(finish(move, jax.tree.leaves((x_t, state)), new))

    def to_data(self, key, denoise, x_t, t, s, state):
        """Make a step that goes to data. `sample` calls it if it knows this of all times of its grid."""
        new, treedef = self._flat(key, denoise, x_t, t, s, state)
        return treedef.unflatten(new)

    def _flat(self, key, denoise, x_t, t, s, state):
        new, treedef = jax.tree.flatten(self.function(key, denoise, x_t, t, s, state))
        old = jax.tree.leaves((x_t, state))
        kept = [reshard_like(a.astype(jnp.result_type(b)), b) for a, b in zip(new, old, strict=True)]
        return kept, treedef


def make_solver(init: Callable, step: Callable, only_to_data: str | None = None) -> Solver:
    """Make a solver whose states and points keep their dtypes, as a loop of the caller's own needs.

    Args:
      init: as in `Solver`; its arrays are in the dtype in which steps compute.
      step: as in `Solver`, but it may return other dtypes than it was given.
      only_to_data: why the solver goes only from noise to data; None if it goes both ways.

    Returns:
      The solver. Its points have the dtype of x_init, in which they are rounded after each step. A step with
      s = t changes nothing. A step to noise is refused or, if the times are traced, NaN where the solver goes
      only to data.
    """

    def init_from(denoise, x_init):
        x_init = checked_state("x_init", x_init)
        check_callable(denoise)
        return init(lambda x_t, t: denoise(x_t.astype(x_init.dtype), t), *promote(x_init))

    return Solver(init_from, Step(step, only_to_data))


class Move(NamedTuple):
    """A step as a solver makes it.

    Attributes:
      x_t: state at t.
      t: start, not equal to s.
      s: end.
      rests: whether the step as it was given goes nowhere, a scalar or [B]; None if it is known to move.
      refused: whether it goes to noise and the solver cannot, likewise.
    """

    x_t: jax.Array
    t: ArrayLike
    s: ArrayLike
    rests: jax.Array | None
    refused: jax.Array | None


def begin(x_t: jax.Array, t: ArrayLike, s: ArrayLike, only_to_data: str | None) -> Move:
    """Replace a step on which a solver would divide by 0.

    A step at rest (s = t) becomes another one, whose result `finish` discards. A step from t = 0 to noise
    starts at a small time t' instead: E[noise | x_0] = 0, so that the flow begins as x = (1 - t') x_0.

    Args:
      x_t: state at t, [*batch, D].
      t: start, a scalar or [B].
      s: end, likewise.
      only_to_data: why the solver goes only from noise to data; None if it goes both ways.

    Returns:
      The step to make, which is the given one if it is known to go to data.

    Raises:
      ValueError: if the step is known to go to noise and the solver cannot.
    """
    known = known_times(t, s)
    if known is not None:
        if only_to_data is not None and np.any(known[1] > known[0]):
            raise ValueError(refusal(only_to_data))
        if np.all(known[1] < known[0]):
            return Move(x_t, t, s, None, None)
    dtypes = [jnp.asarray(v).dtype for v in (t, s)]
    t, s = promote(t, s)
    for name, time in (("t", t), ("s", s)):
        expand_time(time, x_t.shape[:-1], name)
    rises, rests = s > t, s == t
    # As distant from 0 as the rounding of (x_t - x_0) / t allows.
    least = math.sqrt(float(jnp.finfo(t.dtype).eps))
    start = jnp.where(s >= t, jnp.maximum(t, least), t)
    end = jnp.where(rests, 0.5 * start, s)
    if only_to_data is None:
        lift = jnp.where(rises & (t < least), (1 - start) / (1 - jnp.minimum(t, least)), 1.0)
        lift, wide = promote(append_axes(expand_time(lift, x_t.shape[:-1]), 1), x_t)
        x_t = (lift * wide).astype(x_t.dtype)
    start, end = (v.astype(dtype) for v, dtype in zip((start, end), dtypes, strict=True))
    return Move(x_t, start, end, rests, None if only_to_data is None else rises)


def finish(move: Move, old: list[jax.Array], new: list[jax.Array]) -> list[jax.Array]:
    """Return the arrays after a step: the old ones at rest, and NaN for the point of a refused step.

    Args:
      move: the step.
      old: the point and the arrays of the state before it.
      new: the same arrays after it.

    Returns:
      The arrays to keep.
    """
    if move.refused is not None:
        new = [_select(move.refused, jnp.full_like(new[0], jnp.nan), new[0]), *new[1:]]
    return new if move.rests is None else keep_at_rest(move.rests, old, new)


def keep_at_rest(rests: jax.Array, old: Any, new: Any) -> Any:
    """Return the old pytree where a step rests, else the new one.

    Args:
      rests: a scalar or [B].
      old: pytree of arrays.
      new: the same pytree.

    Returns:
      The pytree. Arrays that all samples share are the new ones if each sample has its own `rests`.
    """
    return jax.tree.map(lambda a, b: _select(rests, a, b), old, new)


def _select(condition: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    if condition.ndim and b.shape[:1] != condition.shape:
        return b
    return where(append_axes(condition, b.ndim - 1), a, b)


def refusal(why: str) -> str:
    """Return the message for a solver that goes only to data."""
    return (
        f"The times increase, from data to noise, but this solver goes only from noise to data: {why}. Use "
        "euler, heun, ab2 or dpmpp_2m for increasing times, or give decreasing ones."
    )
