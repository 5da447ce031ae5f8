"""GM-ODE and GM-SDE: the solvers that use the whole predicted mixture."""

from collections.abc import Callable

import jax

from gmflow_jax._arguments import append_axes, expand_time, promote
from gmflow_jax._safe import safe_sqrt
from gmflow_jax.flow._path import reverse_coefficients
from gmflow_jax.flow._spectrum import spectral_field
from gmflow_jax.gm._moments import select
from gmflow_jax.gm._transport import from_standard_normal
from gmflow_jax.gm._types import Gaussian, GaussianMixture
from gmflow_jax.guidance import Guided, surrogate_of
from gmflow_jax.solvers._base import Denoiser, Solver, component_draw, mixture_of, normal_draws, per_sample
from gmflow_jax.solvers._second_order import Extrapolation, Memory, empty_memory, extrapolate
from gmflow_jax.solvers._substeps import check_substeps, integrate, mean_velocity


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
) -> Solver:
    """GM-ODE (section 3.4): sub-steps along the mean velocity of the analytic posterior.

    One network call a step; the sub-steps move the predicted mixture by eq. 10 and cost next to
    nothing. With an exact network each step follows the true flow as exactly as the sub-steps are
    integrated, whatever the size of the step.

    Args:
      order: 1, or 2 to extrapolate with the previous step (`second_order`), neutral for an exact
        network.
      num_substeps: sub-steps in a step; the paper uses max(128 / num_steps, 2).
      shift: the time grid's; sub-times are uniform in the unshifted time.
      integrator: of the sub-steps: 'euler' (the paper's), 'midpoint' and 'heun' (order 2, two sweeps over
        the mixture in a sub-step) or 'rk4' (order 4, four sweeps). None evaluates the velocity at time 0,
        where it is 0 / 0: a sub-step that ends there has order 2 at most.
      ca, cb, correction_steps, sample_axes: see `second_order`.
    """
    _check_order(order)
    check_substeps(num_substeps, shift, integrator)
    predict = _predictor(order, Extrapolation(ca, cb, correction_steps, sample_axes))

    def step(key, denoise, x_t, t, s, state):
        del key
        q, _, state = predict(denoise, x_t, t, s, state)
        x_t, t, s = promote(x_t, t, s)
        t, s = (expand_time(v, x_t.shape[:-1]) for v in (t, s))

        def velocity(x, tau):
            return mean_velocity(q, x_t, t, x, tau)

        return integrate(velocity, x_t, t, s, num_substeps, shift, integrator), state

    return Solver(_initialiser(order), step)


def gm_sde(
    order: int = 2,
    spectrum: Callable[[Gaussian], jax.Array] | None = None,
    *,
    ca: float = 0.005,
    cb: float = 1.0,
    correction_steps: int = 0,
    sample_axes: tuple[int, ...] | None = None,
) -> Solver:
    """GM-SDE (section 3.3): sample x_0 from the mixture, then x_s from p(x_s | x_t, x_0) (eq. 9).

    One network call a step. With an exact network it is exact in distribution for any number of
    steps, one included, if pixels are independent: so they are drawn, unless a spectrum relates them.

    Args:
      order: 1, or 2 to extrapolate with the previous step (`second_order`).
      spectrum: surrogate over x_0 -> log power [B, H, W, D]. The surrogate has mean [B, H, W, D] and
        var [B, 1, 1]: matched to the mixture, or what guidance and order 2 aim at. The mixture is then
        sampled by its transport from a field of this power (`flow.spectral_field`, appendix A.3);
        `Draws.component` is not needed.
      ca, cb, correction_steps, sample_axes: see `second_order`.
    """
    _check_order(order)
    predict = _predictor(order, Extrapolation(ca, cb, correction_steps, sample_axes))

    def step(key, denoise, x_t, t, s, state):
        q, surrogate, state = predict(denoise, x_t, t, s, state)
        x_t, t, s = promote(x_t, t, s)
        normal, noise = normal_draws(key, x_t)
        if spectrum is None:
            x_0 = select(q, component_draw(key, q, x_t), normal)
        else:
            _check_image(x_t)
            x_0 = from_standard_normal(q, spectral_field(normal, spectrum(surrogate)))
        c1, c2, c3 = reverse_coefficients(*(expand_time(v, x_t.shape[:-1]) for v in (t, s)))
        mean = append_axes(c1, 1) * x_t + append_axes(c2, 1) * x_0
        return mean + append_axes(safe_sqrt(c3), 1) * noise, state

    return Solver(_initialiser(order), step)


def _check_order(order: int) -> None:
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, but {order!r} was given.")


def _initialiser(order: int) -> Callable[[Denoiser, jax.Array], Memory | tuple[()]]:
    return empty_memory if order == 2 else lambda denoise, x_init: ()


def _check_image(x_t: jax.Array) -> None:
    if x_t.ndim != 4:
        raise ValueError(
            f"The state has shape {x_t.shape}, but a spectrum relates the pixels of images [B, H, W, D]. "
            "Give x_init these axes, or leave the spectrum out."
        )


def _predictor(
    order: int, options: Extrapolation
) -> Callable[..., tuple[GaussianMixture, Gaussian, Memory | tuple[()]]]:
    """predict(denoise, x_t, t, s, state) -> (mixture over x_0 to step with, its surrogate, next state)."""

    def predict(denoise: Denoiser, x_t, t, s, state):
        prediction = promote(denoise(x_t, t))[0]
        if order == 1:
            return mixture_of(prediction), _surrogate(prediction, options.sample_axes), state
        extrapolated, surrogate = extrapolate(prediction, state, x_t, t, s, options)
        # Carried on: the mixture after guidance, before extrapolation.
        mixture, x_t, t, s = promote(mixture_of(prediction), x_t, t, s)
        state = Memory(mixture, x_t, per_sample(t, x_t), per_sample(t - s, x_t))
        return mixture_of(extrapolated), surrogate, state

    return predict


def _surrogate(prediction: GaussianMixture | Guided, sample_axes: tuple[int, ...] | None) -> Gaussian:
    """The Gaussian matched to a prediction; with guidance, the one that guidance aims at."""
    if not isinstance(prediction, Guided):
        return surrogate_of(prediction, sample_axes)
    matched = prediction.surrogate
    return Gaussian(matched.mean + prediction.bias, (1 - prediction.scale**2) * matched.var)
