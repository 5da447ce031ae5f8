"""GM-PC: a predictor-corrector solver along the analytic flow of the predicted mixture."""

import jax
import jax.numpy as jnp

from gmflow_jax._arguments import append_axes, expand_time, promote
from gmflow_jax._meshes import where
from gmflow_jax.flow._substeps import check_substeps, integrate, mean_velocity
from gmflow_jax.flow._transition import Prepared, posterior_at, prepare
from gmflow_jax.solvers._base import Solver, mixture_of, per_sample, predict
from gmflow_jax.solvers._second_order import Memory, empty_memory
from gmflow_jax.solvers._step import POSTERIOR, make_solver


def gm_pc(
    num_substeps: int = 8, shift: float = 1.0, *, integrator: str = "midpoint", corrector: bool = True
) -> Solver:
    """Make the GM-PC solver: a deterministic predictor-corrector with one network call per step.

    Like `gm_ode`, it follows the mean velocity of the predicted mixture in sub-steps, and is exact up to
    their error for an exact network. For any other network it is of order 2 with respect to the network's
    mean velocity.

    At (x_t, t), the velocity of the previous mixture, moved by eq. 10, differs from the velocity of the new
    prediction. This difference is the error that the previous step has accumulated.

    - The predictor assumes that the error of the new mixture grows at the same rate, and adds it to the
      velocity. The two-step Adams-Bashforth method extrapolates the whole velocity in the same way.
    - The corrector integrates the previous step again, with its error known at both ends. It moves the new
      mixture to the corrected point by eq. 10, without a second network call.

    Order 2 of `gm_ode` (appendix A.2) reweights the mixture instead. That is damped for small steps, and
    for an anisotropic mixture it does not move the mean by the intended amount.

    Args:
      num_substeps: sub-steps per step.
      shift: the shift that was given to `flow.time_grid`. Sub-steps are uniform in the time before the shift.
      integrator: method of the sub-steps, as in `gm_ode`.
      corrector: whether to integrate each step again once the prediction at its end is known.

    Returns:
      The solver.

    Raises:
      ValueError: if num_substeps, shift or integrator is not valid.

    Source:
      This library.

    Example:
      A velocity function for standard normal data, which the flow maps to itself:

      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import flow, solvers
      >>> denoise = flow.denoiser(lambda x_t, t: (2 * t - 1) * x_t / (t**2 + (1 - t) ** 2))
      >>> noise = jnp.array([[-1.0], [2.0]])
      >>> x_0 = solvers.sample(None, denoise, noise, solvers.gm_pc(), flow.time_grid(32))
      >>> print(np.asarray(x_0[:, 0]).round(1))
      [-1.  2.]
    """
    check_substeps(num_substeps, shift, integrator)

    def follow(q: Prepared, x_t: jax.Array, s: jax.Array, rate: jax.Array) -> jax.Array:
        def velocity(x, tau):
            return mean_velocity(q, x, tau) + append_axes(q.t - tau, 1) * rate

        return integrate(velocity, x_t, q.t, s, num_substeps, shift, integrator)

    def step(key, denoise, x_t, t, s, state):
        del key
        (q, state), x_t, t, s = promote((mixture_of(predict(denoise, x_t, t)), Memory(*state)), x_t, t, s)
        when = per_sample(t, x_t), per_sample(t - s, x_t)
        t, s, t_prev, h_prev = (expand_time(v, x_t.shape[:-1]) for v in (t, s, state.t, state.step_size))
        previous, new = prepare(state.mixture, state.x, t_prev), prepare(q, x_t, t)

        def error_rate(new, x):
            error = mean_velocity(new, x, t) - mean_velocity(previous, x, t)
            return error / append_axes(h_prev, 1)  # 0 in the first step, where h_prev is infinite

        x = x_t
        if corrector:
            corrected = follow(previous, state.x, t, error_rate(new, x))
            x = where(append_axes(jnp.isinf(h_prev), 1), x_t, corrected)
            q = posterior_at(new, x, t)
            new = prepare(q, x, t)
        rate = append_axes(_rate_ratio(t_prev, t), 1) * error_rate(new, x)
        return follow(new, x, s, rate), Memory(q, x, *when)

    return make_solver(empty_memory, step, POSTERIOR)


def _rate_ratio(t_prev: jax.Array, t: jax.Array) -> jax.Array:
    """Return the ratio of the rates at which the velocity error grows in the steps from t and from t_prev.

    Near the data, the variance of a mixture predicted at t shrinks like tau^2 / t^2, and its velocity error
    like tau / t. The rate is then proportional to 1 / t; without this ratio the solver would not be of
    order 2. Near the noise, the mixture is as wide as the data and the rate is about constant. The exponent
    alpha^2 interpolates between the two.
    """
    return (t_prev / t) ** jnp.square(1 - t)
