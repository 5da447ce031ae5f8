"""`sample`, which runs a solver over a time grid in one `lax.scan`."""

from collections.abc import Callable
from typing import Any, Literal, overload

import jax
import jax.numpy as jnp

from gmflow_jax._arguments import check_callable, checked_state, promote
from gmflow_jax._meshes import leading_like
from gmflow_jax.solvers._base import Draws, Solver, fold_in_keys, per_sample_keys
from gmflow_jax.solvers._checks import check_draws, check_prediction, checked_times
from gmflow_jax.solvers._step import Step, keep_at_rest


@overload
def sample(
    key: jax.Array | Draws | None,
    denoise: Callable | None,
    x_init: jax.Array,
    solver: Solver,
    times: jax.Array,
    return_trajectory: bool = False,
    has_aux: Literal[False] = False,
) -> jax.Array: ...
@overload
def sample(
    key: jax.Array | Draws | None,
    denoise: Callable | None,
    x_init: jax.Array,
    solver: Solver,
    times: jax.Array,
    return_trajectory: bool = False,
    *,
    has_aux: Literal[True],
) -> tuple[jax.Array, Any]: ...
def sample(
    key: jax.Array | Draws | None,
    denoise: Callable | None,
    x_init: jax.Array,
    solver: Solver,
    times: jax.Array,
    return_trajectory: bool = False,
    has_aux: bool = False,
) -> jax.Array | tuple[jax.Array, Any]:
    """Sample from a model: run a solver from noise to data, or from data to noise.

    The function is pure and traceable. Apply jit, vmap, pmap, shard_map or grad to it as needed.

    Args:
      key: one of
        - a PRNG key. Step j of sample i uses fold_in(fold_in(key, i), j), so a sample does not depend on the
          other samples of its batch.
        - [B] keys, one per sample. Under pmap and shard_map, devices that share a batch need these.
        - `Draws`, with a leading axis of size num_steps.
        - None, for a deterministic solver.
      denoise: (x_t, t) -> GaussianMixture over x_0, or a guided prediction; t is a scalar, or [B] if
        times are [num_steps + 1, B]. `flow.denoiser` makes one from a network. None for a solver of your own
        that does not use it.
      x_init: state at times[0], [B, ..., D]; standard normal for times[0] = 1. Under `jax.vmap` keep a batch
        axis, x[None] with key[None]: the first axis of a sample would be taken for the batch.
      solver: a solver of this package, such as `gm_ode()`.
      times: decreasing times, [num_steps + 1], usually `flow.time_grid(num_steps)`; [num_steps + 1, B] gives
        each sample its own. Where a time is repeated nothing changes, but the network is called: pad a grid
        with zeros if the number of steps is traced. Of known times [num_steps + 1], only 0 and 1 may be
        repeated. With increasing times, `euler`, `heun`, `ab2` or `dpmpp_2m` take data at times[0] to its
        noise; other solvers refuse them or, if they are traced, return NaN.
      return_trajectory: whether to return all states instead of the last one.
      has_aux: whether denoise returns a pair (prediction, aux), where aux is a pytree of arrays.

    Returns:
      The state at times[-1], of the shape of x_init, or all states, [num_steps + 1, B, ..., D], x_init first.
      With has_aux a pair of it and the aux of the last step, or that of all steps with an axis for them. If a
      solver calls denoise more than once in a step, it is the aux of the first call, at the step's start.

    Raises:
      ValueError: if solver is not a Solver, x_init is not one array of floats, times are not monotone, or the
        prediction or the key do not fit x_init.

    Example:
      A velocity function for standard normal data, which the flow maps to itself:

      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import flow, solvers
      >>> denoise = flow.denoiser(lambda x_t, t: (2 * t - 1) * x_t / (t**2 + (1 - t) ** 2))
      >>> noise = jnp.array([[-1.0], [2.0]])
      >>> x_0 = solvers.sample(None, denoise, noise, solvers.heun(), flow.time_grid(32))
      >>> print(np.asarray(x_0[:, 0]).round(2))
      [-1.  2.]
    """
    if not hasattr(solver, "step"):
        raise ValueError(
            f"solver is a {type(solver).__name__}, not a Solver. Call the function that makes one, for "
            "example solvers.gm_ode()."
        )
    (x_init,) = promote(checked_state("x_init", x_init))
    times, to_data = checked_times(times, x_init, solver)
    num_steps, aux_shapes = times.shape[0] - 1, ()
    if denoise is not None:
        check_callable(denoise)
        aux_shapes = check_prediction(denoise, x_init, times[0], has_aux)
    if isinstance(key, Draws):
        check_draws(key, num_steps)
    given = key if isinstance(key, Draws) else None
    keys = None if key is None or isinstance(key, Draws) else per_sample_keys(key, x_init)
    step = solver.step.to_data if to_data and isinstance(solver.step, Step) else solver.step

    def body(carry, inputs):
        x, state, aux = carry
        t, s, index, draws = inputs
        t, s = (leading_like(v, x) if v.ndim else v for v in (t, s))
        step_key = draws if keys is None else fold_in_keys(keys, index)
        call, seen = (denoise, []) if denoise is None or not has_aux else _recorded(denoise)
        with jax.named_scope("solver"):
            x, state = step(step_key, call, x, t, s, state)
        if has_aux:
            new = jax.tree.map(lambda leaf, old: jnp.asarray(leaf, old.dtype), _first(seen), aux)
            aux = new if to_data else keep_at_rest((t == s) & (index > 0), aux, new)
        return (x, state, aux), (x, aux) if return_trajectory else None

    state = solver.init(_for_shapes(denoise, times, has_aux), x_init)
    # zeros_like of a ShapeDtypeStruct keeps the mesh axes over which the value varies in a shard_map.
    carry = (x_init, state, jax.tree.map(jnp.zeros_like, aux_shapes))
    inputs = (times[:-1], times[1:], jnp.arange(num_steps), given)
    (x, _, aux), states = jax.lax.scan(body, carry, inputs)
    if states is not None:
        x, aux = jnp.concatenate([x_init[None], states[0]]), states[1]
    return (x, aux) if has_aux else x


def _recorded(denoise: Callable) -> tuple[Callable, list]:
    """Return the denoiser without its aux, and a list to which each call appends its aux."""
    seen = []

    def call(x_t, t):
        prediction, aux = denoise(x_t, t)
        seen.append(aux)
        return prediction

    return call, seen


def _first(seen: list):
    if not seen:
        raise ValueError(
            "has_aux is set, but the solver did not call denoise, so that there is no aux. Leave out has_aux."
        )
    return seen[0]


def _for_shapes(denoise: Callable | None, times: jax.Array, has_aux: bool) -> Callable | None:
    """Return the denoiser without its aux, called with times of the shape of a step's."""
    if denoise is None or (not has_aux and times.ndim == 1):
        return denoise

    def call(x_t, t):
        result = denoise(x_t, t if times.ndim == 1 else leading_like(t, x_t))
        return result[0] if has_aux else result

    return call
