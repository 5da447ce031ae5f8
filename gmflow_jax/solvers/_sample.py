"""`sample`, which runs a solver over a time grid in one `lax.scan`."""

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gmflow_jax._arguments import concrete, promote
from gmflow_jax.gm._types import GaussianMixture, check_mixture
from gmflow_jax.guidance import Guided
from gmflow_jax.solvers._base import (
    Denoiser,
    Draws,
    Solver,
    fold_in_keys,
    mixture_of,
    per_sample_keys,
)


def sample(
    key: jax.Array | Draws | None,
    denoise: Denoiser,
    x_init: jax.Array,
    solver: Solver,
    times: jax.Array,
    return_trajectory: bool = False,
) -> jax.Array:
    """Sample from a model: run a solver from noise to data.

    The function is pure and traceable. Apply jit, vmap, pmap, shard_map or grad to it as needed.

    Args:
      key: one of
        - a PRNG key. Step j of sample i uses fold_in(fold_in(key, i), j), so a sample does not depend on the
          other samples of its batch.
        - [B] keys, one per sample. Under pmap and shard_map, devices that share a batch need these.
        - `Draws`, with a leading axis of size num_steps.
        - None, for a deterministic solver.
      denoise: (x_t, t) -> GaussianMixture over x_0, or a guided prediction; t is a scalar. `flow.denoiser`
        makes one from a velocity function.
      x_init: state at times[0], [B, ..., D]; standard normal for times[0] = 1.
      solver: a solver of this package, such as `gm_ode()`.
      times: decreasing times, [num_steps + 1], usually `flow.time_grid(num_steps)`.
      return_trajectory: whether to return all states instead of the last one.

    Returns:
      The state at times[-1], of the shape of x_init, or all states, [num_steps + 1, B, ..., D], x_init first.

    Raises:
      ValueError: if solver is not a Solver, times do not decrease, or the prediction or the key do not fit
        x_init.

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
    (x_init,) = promote(x_init)
    times = _checked_times(times, x_init.dtype)
    _check_prediction(denoise, x_init, times)
    num_steps = times.shape[0] - 1
    if isinstance(key, Draws):
        _check_draws(key, num_steps)
    given = key if isinstance(key, Draws) else None
    keys = None if key is None or isinstance(key, Draws) else per_sample_keys(key, x_init)

    def body(carry, inputs):
        x, state = carry
        t, s, index, draws = inputs
        step_key = draws if keys is None else fold_in_keys(keys, index)
        with jax.named_scope("solver"):
            x, state = solver.step(step_key, denoise, x, t, s, state)
        return (x, state), x if return_trajectory else None

    inputs = (times[:-1], times[1:], jnp.arange(num_steps), given)
    (x, _), states = jax.lax.scan(body, (x_init, solver.init(denoise, x_init)), inputs)
    return x if states is None else jnp.concatenate([x_init[None], states])


def _checked_times(times: ArrayLike, dtype: jnp.dtype) -> jax.Array:
    value = concrete(times)
    times = jnp.asarray(times, dtype)
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(
            f"times must be an array [num_steps + 1] of at least 2 decreasing times, but its shape is "
            f"{times.shape}. Use flow.time_grid(num_steps)."
        )
    if value is not None and not (np.all(np.diff(value) < 0) and value[0] <= 1 and value[-1] >= 0):
        raise ValueError(
            f"times must decrease from at most 1 (noise) to at least 0 (data), but {value} was given. "
            "Use flow.time_grid(num_steps)."
        )
    return times


def _check_prediction(denoise: Denoiser, x_init: jax.Array, times: jax.Array) -> None:
    prediction = jax.eval_shape(denoise, x_init, times[0])
    if not isinstance(prediction, (GaussianMixture, Guided)):
        raise ValueError(
            f"denoise must return a GaussianMixture over x_0 or a guided prediction, but it returned "
            f"{type(prediction).__name__}. Wrap a velocity function in flow.denoiser."
        )
    q = mixture_of(prediction)
    check_mixture(q)
    if (*q.means.shape[:-2], q.means.shape[-1]) != x_init.shape:
        raise ValueError(
            f"denoise returned means of shape {q.means.shape} for a state of shape {x_init.shape}; "
            "they must be [*batch, K, D] for a state [*batch, D]."
        )


def _check_draws(draws: Draws, num_steps: int) -> None:
    for leaf in jax.tree.leaves(draws):
        if leaf.shape[:1] != (num_steps,):
            raise ValueError(
                f"Every field of Draws needs a leading axis of size num_steps = {num_steps}, but one has "
                f"shape {leaf.shape}."
            )
