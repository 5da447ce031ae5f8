"""Checks of the arguments of `solvers.sample`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gmflow_jax._arguments import concrete, split_aux
from gmflow_jax.gm._types import GaussianMixture, check_mixture
from gmflow_jax.guidance import Guided
from gmflow_jax.solvers._base import Draws, Solver, mixture_of
from gmflow_jax.solvers._step import Step, refusal


def checked_times(times: ArrayLike, x_init: jax.Array, solver: Solver) -> tuple[jax.Array, bool]:
    """Check a time grid and convert it to the dtype of the state.

    Args:
      times: [num_steps + 1], or [num_steps + 1, B] with one grid for each sample.
      x_init: [B, ..., D].
      solver: the solver, which may go only to data.

    Returns:
      The times, and whether all of their steps are known to go to data.

    Raises:
      ValueError: if the shape is wrong, or times that are known are not monotone, leave [0, 1], or increase
        for a solver that goes only to data.
    """
    try:
        value, times = concrete(times), jnp.asarray(times, x_init.dtype)
    except (TypeError, ValueError):
        raise ValueError(
            f"times is of type {type(times).__name__}, not an array of times. Use flow.time_grid(num_steps)."
        ) from None
    per_sample = times.ndim == 2 and x_init.ndim > 1 and times.shape[1] == x_init.shape[0]
    if not (times.ndim == 1 or per_sample) or times.shape[0] < 2:
        raise ValueError(
            f"times must be an array [num_steps + 1] of at least 2 decreasing times, or "
            f"[num_steps + 1, B] with one grid for each of the B samples, but its shape is "
            f"{times.shape} for a state of shape {x_init.shape}. Use flow.time_grid(num_steps)."
        )
    if value is None:
        return times, False
    steps = np.diff(value, axis=0)
    # The ends of the path may be repeated, to pad a grid, and a sample may rest while others move. Elsewhere
    # a repeated time is a mistake.
    moves = (steps != 0) | ((value[1:] != 0) & (value[1:] != 1) & (value.ndim == 1))
    down, up = (np.all((sign * steps > 0) | ~moves) and np.any(moves) for sign in (-1, 1))
    if not ((up or down) and np.all((value >= 0) & (value <= 1))):
        raise ValueError(
            f"times must decrease from at most 1 (noise) to at least 0 (data), or increase for all samples, "
            f"but {value} was given. Only 0 and 1 may be repeated. Use flow.time_grid(num_steps)."
        )
    why = solver.step.only_to_data if isinstance(solver.step, Step) else None
    if up and why is not None:
        raise ValueError(refusal(why))
    return times, bool(np.all(np.diff(value.astype(times.dtype), axis=0) < 0))


def check_prediction(denoise, x_init: jax.Array, t: jax.Array, has_aux: bool):
    """Check what a denoiser returns.

    Args:
      denoise: (x_t, t) -> prediction, or (prediction, aux).
      x_init: [*batch, D].
      t: a scalar or [B].
      has_aux: whether it returns a pair.

    Returns:
      The shapes of aux; an empty tuple if there is none.

    Raises:
      ValueError: if the prediction does not fit the state.
    """
    prediction, aux = jax.eval_shape(lambda x_t, t: _check_aux(denoise(x_t, t)), x_init, t), ()
    if has_aux:
        if not isinstance(prediction, tuple) or len(prediction) != 2:
            raise ValueError(
                f"With has_aux, denoise must return a pair (prediction, aux), but it returned "
                f"{type(prediction).__name__}. Return a pair, or leave out has_aux."
            )
        prediction, aux = prediction
    if not isinstance(prediction, (GaussianMixture, Guided)):
        pair = " For a pair (prediction, aux), set has_aux=True." * isinstance(prediction, tuple)
        is_array = isinstance(prediction, jax.ShapeDtypeStruct)
        given = "an array" if is_array else type(prediction).__name__
        raise ValueError(
            "denoise must return a GaussianMixture over x_0 or a guided prediction, but it returned "
            f"{given}. Wrap a velocity function in flow.denoiser.{pair}"
        )
    q = mixture_of(prediction)
    check_mixture(q)
    if (*q.means.shape[:-2], q.means.shape[-1]) != x_init.shape:
        raise ValueError(
            f"denoise returned means of shape {q.means.shape} for a state of shape {x_init.shape}; "
            "they must be [*batch, K, D] for a state [*batch, D]."
        )
    return aux


def _check_aux(result):
    """Return what a denoiser returned; raise ValueError if it is a pair, but not of a prediction and aux."""
    _, aux = split_aux(result)
    if aux and isinstance(aux[0], (GaussianMixture, Guided)):
        raise ValueError(
            "denoise returned two predictions, as the result of in_one_batch does. Pass it to "
            "guidance.guided_denoiser(denoise, None, scale)."
        )
    for leaf in jax.tree.leaves(aux):
        if not isinstance(leaf, (jax.Array, np.ndarray, np.generic, bool, int, float, complex)):
            raise ValueError(
                f"The aux of denoise holds a value of type {type(leaf).__name__}, but must be a pytree of "
                "arrays. Leave out other values."
            )
    return result


def check_draws(draws: Draws, num_steps: int) -> None:
    """Raise ValueError unless every field has an axis for the steps."""
    for leaf in jax.tree.leaves(draws):
        if leaf.shape[:1] != (num_steps,):
            raise ValueError(
                f"Every field of Draws needs a leading axis of size num_steps = {num_steps}, but one has "
                f"shape {leaf.shape}."
            )
