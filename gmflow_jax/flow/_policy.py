"""The policy of a mixture: the velocity field that one prediction defines at all later points."""

import functools

import jax
import numpy as np
from jax.typing import ArrayLike

from gmflow_jax._arguments import check_same_shape, expand_time, known_times
from gmflow_jax.flow._path import checked_time
from gmflow_jax.flow._substeps import check_substeps, integrate, mean_velocity
from gmflow_jax.flow._transition import prepare
from gmflow_jax.gm._types import Gaussian, GaussianMixture, promote_mixture


def policy_velocity(
    q: GaussianMixture | Gaussian, x_s: jax.Array, s: ArrayLike, x: jax.Array, t: ArrayLike
) -> jax.Array:
    r"""Compute the velocity at a later point that a prediction made at (x_s, s) implies.

    $$\pi(x, t) = (x - \mathrm{E}[x_0]) / t,$$

    where $x_0$ follows `posterior(q, x_s, s, x, t)`. This is the velocity along which `solvers.gm_ode` moves
    between two network calls.

    Args:
      q: mixture over x_0 predicted at (x_s, s), means [B, ..., K, D].
      x_s: the point of the prediction, [B, ..., D].
      s: its time, a scalar or [B].
      x: the later point, [B, ..., D].
      t: its time, at most s: a scalar or [B].

    Returns:
      [B, ..., D]; 0 where t = 0, since the velocity is 0 / 0 there.

    Raises:
      ValueError: if shapes do not fit or t is greater than s.

    Source:
      GMFlow (arXiv 2504.05304), eq. 10; pi-Flow (arXiv 2510.14974), the mixture policy.

    Example:
      At the point of the prediction, it is the mean velocity of the prediction:

      >>> import jax.numpy as jnp
      >>> from gmflow_jax import flow, gm
      >>> q = gm.Gaussian(mean=jnp.full((1, 2), 3.0), var=jnp.ones((1,)))
      >>> x_s = jnp.ones((1, 2))
      >>> flow.policy_velocity(q, x_s, 0.5, x_s, 0.5).tolist()
      [[-4.0, -4.0]]
    """
    _check_order(s=s, t=t)
    q, x_s, s, x, t = _promote(q, x_s, s, x, t)
    return mean_velocity(prepare(q, x_s, s), x, t)


def follow_policy(
    q: GaussianMixture | Gaussian,
    x_s: jax.Array,
    s: ArrayLike,
    x: jax.Array,
    t: ArrayLike,
    end: ArrayLike,
    num_substeps: int,
    shift: float = 1.0,
    integrator: str = "euler",
) -> jax.Array:
    """Move a point from time t to time `end` along `policy_velocity`, without a network call.

    Args:
      q: mixture over x_0 predicted at (x_s, s), means [B, ..., K, D].
      x_s: the point of the prediction, [B, ..., D].
      s: its time, a scalar or [B].
      x: the point to move, [B, ..., D]; x_s to start at the prediction.
      t: its time, at most s: a scalar or [B].
      end: the time to reach, at most t: a scalar or [B].
      num_substeps: sub-steps from t to end, uniform in the time before the shift.
      shift: shift of the time grid, see `time_grid`.
      integrator: 'euler', 'midpoint', 'heun' or 'rk4', see `solvers.gm_ode`.

    Returns:
      The point at time `end`, [B, ..., D]. It is x where end = t.

    Raises:
      ValueError: if shapes do not fit, the times are not in order, or an option is not valid.

    Source:
      pi-Flow (arXiv 2510.14974), the rollout of the policy.
    """
    check_substeps(num_substeps, shift, integrator)
    _check_order(s=s, t=t)
    _check_order(t=t, end=end)
    q, x_s, s, x, t, end = _promote(q, x_s, s, x, t, end)
    velocity = functools.partial(mean_velocity, prepare(q, x_s, s))
    return integrate(velocity, x, t, end, num_substeps, shift, integrator)


def _check_order(**times: ArrayLike) -> None:
    """Raise unless the second time is at most the first. Traced times are not checked."""
    (name, noisier), (later_name, later) = times.items()
    known = known_times(noisier, later)
    if known is not None and np.any(known[1] > known[0]):
        raise ValueError(
            f"{later_name} = {later} is noisier than {name} = {noisier}, but a prediction implies velocities "
            f"only from its own time towards the data; give {later_name} <= {name}."
        )


def _promote(q, x_s: jax.Array, s: ArrayLike, x: jax.Array, *times: ArrayLike):
    q, x_s, s, x, *later = promote_mixture(q, x_s, s, x, *times)
    check_same_shape(x_s=x_s, x=x)
    named = zip(later, ("t", "end"), strict=False)
    return q, x_s, checked_time(q, x_s, s), x, *(expand_time(t, x.shape[:-1], name) for t, name in named)
