"""GM-ODE and GM-SDE, the solvers of GMFlow, which use the whole predicted mixture."""

import functools
from collections.abc import Callable

import jax
import numpy as np
from jax.typing import ArrayLike

from gmflow_jax._arguments import append_axes, check_number, concrete, expand_time, promote
from gmflow_jax._meshes import where
from gmflow_jax._safe import safe_sqrt
from gmflow_jax.flow._path import forward_unchecked
from gmflow_jax.flow._spectrum import spectral_field
from gmflow_jax.flow._substeps import check_substeps, integrate, mean_velocity
from gmflow_jax.flow._transition import prepare, reverse_coefficients
from gmflow_jax.gm._moments import select
from gmflow_jax.gm._policy import temper_unchecked
from gmflow_jax.gm._surrogate import surrogate_of
from gmflow_jax.gm._transport import from_standard_normal
from gmflow_jax.gm._types import Gaussian, GaussianMixture
from gmflow_jax.guidance import Guided, Observed
from gmflow_jax.guidance._observe import unobserved
from gmflow_jax.solvers._base import (
    Denoiser,
    Solver,
    component_draw,
    mixture_of,
    normal_draws,
    per_sample,
    predict,
    step_noise,
)
from gmflow_jax.solvers._second_order import (
    Extrapolation,
    Memory,
    empty_memory,
    extrapolate,
    observed_surrogate,
)
from gmflow_jax.solvers._step import POSTERIOR, STOCHASTIC, make_solver


def gm_ode(
    order: int = 2,
    num_substeps: int = 16,
    shift: float = 1.0,
    *,
    integrator: str = "euler",
    ca: float = 0.005,
    cb: float = 1.0,
    correction_steps: int = 0,
    sample_axes: tuple[int, ...] | None = None,
    temperature: float = 1.0,
    renoise: float = 0.0,
) -> Solver:
    """Make the GM-ODE solver: a deterministic solver with one network call per step.

    Each step follows the mean velocity of the predicted mixture in sub-steps. The mixture at each sub-step
    comes from the exact posterior (`flow.posterior`), without another network call, and is cheap to
    compute. With an exact network, a step of any size follows the true flow up to the error of the
    sub-steps. With order 1 it is also the sampler of a network that was distilled for few calls
    (`training.make_distillation_step`); `temperature` and `renoise` are for such networks.

    Args:
      order: 1, or 2 to extrapolate with the prediction of the previous step (`second_order`). With an exact
        network both give the same result. For pixels of many channels whose modes differ in few directions,
        such as chunks of actions, 2 changes the weights of the modes too much.
      num_substeps: sub-steps per step. The paper takes max(128 // num_steps, 2) Euler sub-steps, but 8 on
        ImageNet for 4 or 6 steps. With integrator='midpoint' fewer are as accurate.
      shift: the shift that was given to `flow.time_grid`. Sub-steps are uniform in the time before the shift.
      integrator: method of the sub-steps: 'euler' (as in the paper), 'midpoint' or 'heun' (order 2; two
        velocity evaluations per sub-step) or 'rk4' (order 4; four evaluations). The velocity is not used at
        time 0, where it is 0 / 0, so the sub-step that ends there has at most order 2.
      ca: damping constant of `second_order`.
      cb: damping factor of the guidance scale in `second_order`.
      correction_steps: fixed-point corrections in `second_order`: two are safe, and more than 5 amplify
        rounding.
      sample_axes: axes of one sample, over which the variance is averaged: (1, 2) for [B, H, W, D]. None
        takes all batch axes but the first.
      temperature: temperature of the mixture (`gm.temper`) in all steps but the last, the one that ends at
        time 0; below 1 samples vary less.
      renoise: from 0 to 1, makes the solver stochastic. A step that should end at time s goes on to
        (1 - renoise) s, and adds the noise that leads back to s. 1 goes to the data and back.

    Returns:
      The solver.

    Raises:
      ValueError: if an option is not valid.

    Source:
      GMFlow (arXiv 2504.05304), section 3.4; appendix A.2 for order 2; pi-Flow (arXiv 2510.14974) for the
      temperature.

    Example:
      At t = 1 the exact prediction is the distribution of the data. One step then samples from it:

      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import flow, gm, solvers
      >>> means = jnp.broadcast_to(jnp.array([[-1.0], [1.0]]), (6, 2, 1))
      >>> data = gm.GaussianMixture(means, jnp.log(jnp.full((6, 2), 0.5)), jnp.log(0.1))
      >>> noise = jnp.linspace(-1.25, 1.25, 6)[:, None]
      >>> x_0 = solvers.sample(None, lambda x_t, t: data, noise, solvers.gm_ode(), flow.time_grid(1))
      >>> print(np.asarray(x_0[:, 0]).round(1))
      [-1.1 -1.  -0.9  0.9  1.   1.1]
    """
    _check_order(order)
    check_substeps(num_substeps, shift, integrator)
    check_number("temperature", temperature, "(0, inf)")
    check_number("renoise", renoise, "[0, 1]")
    tempered, noisy = _may_differ(temperature, 1.0), _may_differ(renoise, 0.0)
    predict_both = _predictor(order, Extrapolation(ca, cb, correction_steps, sample_axes))

    def step(key, denoise, x_t, t, s, state):
        q, _, state = predict_both(denoise, x_t, t, s, state)
        q, x_t, *numbers = promote(q, x_t, t, s, temperature, renoise)
        t, s, heat, back = (expand_time(v, x_t.shape[:-1]) for v in numbers)
        if tempered:
            q = temper_unchecked(q, where(s > 0, heat, 1.0))
        end = (1 - back) * s
        velocity = functools.partial(mean_velocity, prepare(q, x_t, t))
        x = integrate(velocity, x_t, t, end, num_substeps, shift, integrator)
        return (forward_unchecked(x, step_noise(key, x), end, s) if noisy else x), state

    return make_solver(_initialiser(order), step, POSTERIOR)


def gm_sde(
    order: int = 2,
    spectrum: Callable[[Gaussian], jax.Array] | None = None,
    *,
    ca: float = 0.005,
    cb: float = 1.0,
    correction_steps: int = 0,
    sample_axes: tuple[int, ...] | None = None,
) -> Solver:
    """Make the GM-SDE solver: a stochastic solver with one network call per step.

    Each step samples x_0 from the predicted mixture, and x_s from p(x_s | x_t, x_0). Pixels are drawn
    independently unless a spectrum is given. With an exact network and independent pixels, the solver is
    exact in distribution for any number of steps, including one.

    Args:
      order: 1, or 2 to extrapolate with the prediction of the previous step (`second_order`), see `gm_ode`.
      spectrum: function from the surrogate of x_0, a Gaussian with mean [B, H, W, D] and var [B, 1, 1], to
        the log power [B, H, W, D]. The surrogate includes guidance and, for order 2, the extrapolation. x_0
        is then the transport into the mixture (`gm.from_standard_normal`) of a field with this power
        (`flow.spectral_field`); `Draws.component` is not used.
      ca: damping constant of `second_order`.
      cb: damping factor of the guidance scale in `second_order`.
      correction_steps: fixed-point corrections in `second_order`: two are safe, and more than 5 amplify
        rounding.
      sample_axes: axes of one sample, over which the variance is averaged: (1, 2) for [B, H, W, D]. None
        takes all batch axes but the first.

    Returns:
      The solver.

    Raises:
      ValueError: if order is not 1 or 2.

    Source:
      GMFlow (arXiv 2504.05304), section 3.3 and eq. 9; appendices A.2 for order 2 and A.3 for the spectrum.

    Example:
      >>> import jax
      >>> from gmflow_jax import flow, solvers
      >>> denoise = flow.denoiser(lambda x_t, t: x_t)  # stands for a network
      >>> @jax.jit
      ... def generate(key):
      ...     key, noise_key = jax.random.split(key)
      ...     noise = jax.random.normal(noise_key, (4, 8, 8, 3))
      ...     return solvers.sample(key, denoise, noise, solvers.gm_sde(), flow.time_grid(8))
      >>> generate(jax.random.key(0)).shape
      (4, 8, 8, 3)
    """
    _check_order(order)
    predict_both = _predictor(order, Extrapolation(ca, cb, correction_steps, sample_axes))

    def step(key, denoise, x_t, t, s, state):
        q, surrogate, state = predict_both(denoise, x_t, t, s, state)
        (q, surrogate), x_t, t, s = promote((q, surrogate), x_t, t, s)
        normal, noise = normal_draws(key, x_t)
        if spectrum is None:
            x_0 = select(q, component_draw(key, q, x_t), normal)
        else:
            _check_image(x_t)
            with jax.named_scope("spectrum"):
                x_0 = from_standard_normal(q, spectral_field(normal, spectrum(surrogate)))
        c1, c2, c3 = reverse_coefficients(*(expand_time(v, x_t.shape[:-1]) for v in (t, s)))
        mean = append_axes(c1, 1) * x_t + append_axes(c2, 1) * x_0
        return mean + append_axes(safe_sqrt(c3), 1) * noise, state

    return make_solver(_initialiser(order), step, STOCHASTIC)


def _may_differ(value: ArrayLike, number: float) -> bool:
    """Return whether a value is traced, or differs from a number."""
    known = concrete(value)
    return known is None or bool(np.any(known != number))


def _check_order(order: int) -> None:
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, but {order!r} was given.")


def _initialiser(order: int) -> Callable[[Denoiser, jax.Array], Memory | tuple[()]]:
    def init(denoise: Denoiser, x_init: jax.Array) -> Memory:
        return empty_memory(lambda x_t, t: unobserved(denoise(x_t, t)), x_init)

    return init if order == 2 else lambda denoise, x_init: ()


def _check_image(x_t: jax.Array) -> None:
    if x_t.ndim != 4:
        raise ValueError(
            f"The state has shape {x_t.shape}, but a spectrum relates the pixels of images [B, H, W, D]. "
            "Give x_init these axes, or leave out the spectrum."
        )


def _predictor(
    order: int, options: Extrapolation
) -> Callable[..., tuple[GaussianMixture, Gaussian, Memory | tuple[()]]]:
    """Return (denoise, x_t, t, s, state) -> (mixture over x_0, its surrogate, next state)."""

    def predict_both(denoise: Denoiser, x_t, t, s, state):
        prediction = predict(denoise, x_t, t)
        if order == 1:
            return mixture_of(prediction), _surrogate(prediction, options.sample_axes), state
        extrapolated, surrogate = extrapolate(prediction, state, x_t, t, s, options)
        # The memory holds the mixture after guidance, and before extrapolation and observation.
        mixture, x_t, t, s = promote(mixture_of(unobserved(prediction)), x_t, t, s)
        state = Memory(mixture, x_t, per_sample(t, x_t), per_sample(t - s, x_t))
        return mixture_of(extrapolated), surrogate, state

    return predict_both


def _surrogate(prediction: GaussianMixture | Guided, sample_axes: tuple[int, ...] | None) -> Gaussian:
    """Match a Gaussian to a prediction. With guidance, it is the target Gaussian of the guidance."""
    if isinstance(prediction, Observed):
        return observed_surrogate(prediction, _surrogate(prediction.prediction, sample_axes), sample_axes)
    if not isinstance(prediction, Guided):
        return surrogate_of(prediction, sample_axes)
    matched = prediction.surrogate
    return Gaussian(matched.mean + prediction.bias, (1 - prediction.scale**2) * matched.var)
