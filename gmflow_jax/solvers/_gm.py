"""GM-ODE and GM-SDE: the solvers that use the whole predicted mixture."""

import jax
import jax.numpy as jnp

from gmflow_jax._numerics import append_axes, expand_time, promote, safe_sqrt
from gmflow_jax.flow._path import posterior_checked, reverse_coefficients
from gmflow_jax.flow._time import check_shift, shift_time, unshift_time
from gmflow_jax.gm._moments import select, weighted_mean
from gmflow_jax.gm._types import GaussianMixture
from gmflow_jax.solvers._base import Solver, mixture_draws, mixture_of
from gmflow_jax.solvers._second_order import Memory, empty_memory, second_order


def gm_ode(
    order: int = 2,
    num_substeps: int = 16,
    shift: float = 1.0,
    *,
    ca: float = 0.005,
    cb: float = 1.0,
    correction_steps: int = 0,
    sample_axes: tuple[int, ...] | None = None,
) -> Solver:
    """GM-ODE (section 3.4): Euler sub-steps along the mean velocity of the analytic posterior.

    One network call a step; the sub-steps move the predicted mixture by eq. 10 and cost next to
    nothing. With an exact network each step follows the true flow, to first order in the sub-step,
    whatever the size of the step.

    Args:
      order: 1, or 2 to extrapolate with the previous step (`second_order`), neutral for an exact
        network.
      num_substeps: sub-steps in a step; the paper uses max(128 / num_steps, 2).
      shift: the time grid's; sub-times are uniform in the unshifted time.
      ca, cb, correction_steps, sample_axes: see `second_order`.
    """
    _check_order(order)
    check_shift(shift)
    if num_substeps < 1:
        raise ValueError(f"num_substeps must be at least 1, but {num_substeps} was given.")
    predict = _predictor(order, ca, cb, correction_steps, sample_axes)

    def step(key, denoise, x_t, t, s, state):
        del key
        q, state = predict(denoise, x_t, t, s, state)
        x_t, t, s = promote(x_t, t, s)
        t, s = (expand_time(v, x_t.shape[:-1]) for v in (t, s))
        u_t, u_s = unshift_time(t, shift), unshift_time(s, shift)
        inner = [
            shift_time(u_t + (u_s - u_t) * (i / num_substeps), shift)
            for i in range(1, num_substeps)
        ]
        grid = jnp.stack([t, *inner, s])

        def substep(x, taus):
            tau, tau_next = taus
            x_0 = weighted_mean(posterior_checked(q, x_t, t, x, tau))
            return x_0 + append_axes(tau_next / tau, 1) * (x - x_0), None

        return jax.lax.scan(substep, x_t, (grid[:-1], grid[1:]))[0], state

    return Solver(_initialiser(order), step)


def gm_sde(
    order: int = 2,
    *,
    ca: float = 0.005,
    cb: float = 1.0,
    correction_steps: int = 0,
    sample_axes: tuple[int, ...] | None = None,
) -> Solver:
    """GM-SDE (section 3.3): sample x_0 from the mixture, then x_s from p(x_s | x_t, x_0) (eq. 9).

    One network call a step. With an exact network it is exact in distribution for any number of
    steps, one included. Pixels are drawn independently of each other.

    Args:
      order: 1, or 2 to extrapolate with the previous step (`second_order`).
      ca, cb, correction_steps, sample_axes: see `second_order`.
    """
    _check_order(order)
    predict = _predictor(order, ca, cb, correction_steps, sample_axes)

    def step(key, denoise, x_t, t, s, state):
        q, state = predict(denoise, x_t, t, s, state)
        x_t, t, s = promote(x_t, t, s)
        draws = mixture_draws(key, q, x_t)
        x_0 = select(q, draws.component, draws.mixture_normal)
        c1, c2, c3 = reverse_coefficients(*(expand_time(v, x_t.shape[:-1]) for v in (t, s)))
        mean = append_axes(c1, 1) * x_t + append_axes(c2, 1) * x_0
        return mean + append_axes(safe_sqrt(c3), 1) * draws.step_noise, state

    return Solver(_initialiser(order), step)


def _check_order(order: int) -> None:
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, but {order!r} was given.")


def _initialiser(order: int):
    return empty_memory if order == 2 else lambda denoise, x_init: ()


def _predictor(order, ca, cb, correction_steps, sample_axes):
    """predict(denoise, x_t, t, s, state) -> (mixture over x_0 to step with, next state)."""

    def predict(denoise, x_t, t, s, state) -> tuple[GaussianMixture, Memory | tuple]:
        prediction = denoise(x_t, t)
        if order == 1:
            return promote(mixture_of(prediction))[0], state
        extrapolated = second_order(
            prediction, state, x_t, t, s, ca, cb, correction_steps, sample_axes
        )
        # Carried on: the mixture after guidance, before extrapolation.
        state = Memory(*promote(mixture_of(prediction), x_t, t, jnp.subtract(t, s)))
        return mixture_of(extrapolated), state

    return predict
