"""Sub-steps along the analytic velocity of a predicted mixture, which need no network calls."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gmflow_jax._arguments import append_axes, as_whole
from gmflow_jax._meshes import reshard_like, where
from gmflow_jax._safe import safe_divide
from gmflow_jax.flow._time import check_shift, shift_time, unshift_time
from gmflow_jax.flow._transition import Prepared, posterior_mean_at


def mean_velocity(prepared: Prepared, x: jax.Array, tau: jax.Array) -> jax.Array:
    """Compute the mean velocity at another point, from the posterior there (eq. 10).

    Args:
      prepared: the prediction.
      x: the point, [*batch, D].
      tau: its time, at the rank of `*batch`.

    Returns:
      [*batch, D]; 0 for tau = 0.
    """
    return safe_divide(x - posterior_mean_at(prepared, x, tau), append_axes(tau, 1))


def _euler(velocity, x, a, h):
    return velocity(x, a)


def _midpoint(velocity, x, a, h):
    return velocity(x + append_axes(0.5 * h, 1) * velocity(x, a), a + 0.5 * h)


def _heun(velocity, x, a, h):
    first = velocity(x, a)
    # If the sub-step ends at tau = 0, where the velocity is 0 / 0, use the midpoint as the second node.
    node = jnp.where(a + h > 0, 1.0, 0.5).astype(x.dtype)
    second = velocity(x + append_axes(node * h, 1) * first, a + node * h)
    return first + append_axes(0.5 / node, 1) * (second - first)


def _rk4(velocity, x, a, h):
    half, whole = append_axes(0.5 * h, 1), append_axes(h, 1)
    k1 = velocity(x, a)
    k2 = velocity(x + half * k1, a + 0.5 * h)
    k3 = velocity(x + half * k2, a + 0.5 * h)
    k4 = velocity(x + whole * k3, a + h)
    # If the sub-step ends at tau = 0, extrapolate the last stage instead of evaluating the velocity there.
    k4 = where(append_axes(a + h, 1) > 0, k4, 2 * k3 - k1)
    return (k1 + 2 * k2 + 2 * k3 + k4) / 6


# (velocity function, x, start a, negative length h of a sub-step) -> average velocity over the sub-step.
INTEGRATORS: dict[str, Callable] = {"euler": _euler, "midpoint": _midpoint, "heun": _heun, "rk4": _rk4}


def check_substeps(num_substeps: int, shift: float, integrator: str) -> None:
    """Check the options of `integrate`.

    Args:
      num_substeps: number of sub-steps, at least 1.
      shift: shift of the time grid, positive.
      integrator: one of `INTEGRATORS`.

    Raises:
      ValueError: if an option is not valid.
    """
    check_shift(shift)
    number = as_whole(num_substeps)
    if number is None or number < 1:
        raise ValueError(
            f"num_substeps must be at least 1, but {num_substeps} was given. Give a whole number."
        )
    if integrator not in INTEGRATORS:
        raise ValueError(
            f"integrator {integrator!r} is unknown. Choose one of {', '.join(INTEGRATORS)}."
        )


def integrate(
    velocity: Callable[[jax.Array, jax.Array], jax.Array],
    x: jax.Array,
    t: jax.Array,
    s: jax.Array,
    num_substeps: int,
    shift: float,
    integrator: str,
) -> jax.Array:
    """Solve dx/dtau = velocity(x, tau) from t to s, in sub-steps uniform in the time before the shift.

    Args:
      velocity: (x, tau) -> [*batch, D].
      x: state at t, [*batch, D].
      t: start, at the rank of `*batch`.
      s: end, at the rank of `*batch`.
      num_substeps: number of sub-steps.
      shift: shift of the time grid.
      integrator: one of `INTEGRATORS`.

    Returns:
      The state at s, [*batch, D].
    """
    t, s = jnp.broadcast_arrays(t, s)
    u_t, u_s = unshift_time(t, shift), unshift_time(s, shift)
    inner = [shift_time(u_t + (u_s - u_t) * (i / num_substeps), shift) for i in range(1, num_substeps)]
    grid = jnp.stack([t, *inner, s])

    def substep(x, taus):
        a, h = taus[0], taus[1] - taus[0]
        new = x + append_axes(h, 1) * INTEGRATORS[integrator](velocity, x, a, h)
        return reshard_like(new, x), None

    return jax.lax.scan(substep, x, (grid[:-1], grid[1:]))[0]
