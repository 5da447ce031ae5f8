"""Conditioning on an observation of x_0: exact for Gaussian noise, linearised for other likelihoods."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from gmflow_jax._arguments import (
    check_callable,
    check_number,
    concrete,
    is_within,
    join_aux,
    promote,
    split_aux,
)
from gmflow_jax._meshes import reshard_like, rows_like
from gmflow_jax.flow._path import check_over
from gmflow_jax.gm._factor import Factor, combine, gaussian_factor, times
from gmflow_jax.gm._moments import weighted_mean
from gmflow_jax.gm._types import Gaussian, GaussianMixture, as_mixture, check_scale_shape, normalised
from gmflow_jax.guidance._formulas import Guided


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Observed(GaussianMixture):
    """A mixture over x_0 given an observation, and its parts, which solvers of order 2 tilt in one step.

    Attributes:
      means: component means given the observation, [*batch, K, D].
      log_weights: log-weights given the observation, [*batch, K].
      log_std: log standard deviation given the observation; a scalar, or of the rank of `*batch`.
      prediction: the prediction before the observation, a GaussianMixture or `Guided`.
      observation: the factor by which it was multiplied.
    """

    prediction: GaussianMixture | Guided
    observation: Factor

    @property
    def mixture(self) -> GaussianMixture:
        """The mixture given the observation, without its parts."""
        return GaussianMixture(self.means, self.log_weights, self.log_std)


def observe(
    denoise: Callable, y: ArrayLike, var: ArrayLike
) -> Callable[[jax.Array, jax.Array], GaussianMixture | Guided]:
    r"""Condition a denoiser on y = x_0 + noise, for Gaussian noise of a variance that each pixel may choose.

    The observation multiplies the prediction of each pixel, and the product is again a mixture:

    $$p(x_0 | x_t, y) \propto q(x_0 | x_t)\, \mathcal{N}(y; x_0, \mathrm{var}),$$

    since y depends on x_t through x_0 alone. A step of `solvers.gm_sde` draws x_0 from it and then x_s from
    p(x_s | x_t, x_0), hence x_s from $p(x_s | x_t, y) = \int p(x_s | x_t, x_0)\, p(x_0 | x_t, y)\, dx_0$; and
    at t = 1 the state is noise, independent of y. So if one pixel is all there is, such as a chunk of
    actions, and its prediction is exact, the samples are exactly those of p(x_0 | y), in any number of steps.
    The pixels of a picture are predicted as independent given x_t: each is conditioned on its own observation
    exactly, and on those of others only through x_t, at the later steps. So pictures are completed
    approximately, in many steps, too, about as by overwriting the known pixels of x_t.

    Args:
      denoise: (x_t, t) -> mixture over x_0, or a guided prediction; or a pair of it and an aux, which is
        returned beside the observed prediction. Put `observe` around `guided_denoiser`, not inside it. It may
        be the result of `observe`, for a second observation.
      y: the observation, floats of the shape [B, ..., D] of x_t. It is not broadcast: for many samples given
        one observation, use `jnp.broadcast_to`. Where the variance is infinite, y has no effect and may be
        NaN.
      var: variance of the noise, a scalar or an array of the rank of `*batch`, each axis of size 1 or the
        batch's size: inf where nothing is known, 0 where x_0 = y. For a mask of known pixels, it is
        `jnp.where(mask, 0.0, jnp.inf)`.

    Returns:
      denoise(x_t, t) -> `Observed`, a GaussianMixture that any solver takes; or `denoise` itself if nothing
      is known. All solvers but `solvers.ddpm('large')`, which adds noise in its last step, return the known
      pixels as they were given.

    Raises:
      ValueError: if y is not of floats, var is negative, NaN or an array of integers, y is not finite where
        var is, or shapes do not fit; by denoise, if y and x_t have different shapes.

    Example:
      >>> import jax.numpy as jnp
      >>> from gmflow_jax import flow, guidance, solvers
      >>> denoise = flow.denoiser(lambda x_t, t: x_t)  # stands for a network
      >>> y, known = jnp.array([[1.0], [jnp.nan]]), jnp.array([True, False])
      >>> denoise = guidance.observe(denoise, y, jnp.where(known, 0.0, jnp.inf))
      >>> noise = jnp.array([[0.5], [-2.0]])
      >>> x_0 = solvers.sample(None, denoise, noise, solvers.gm_ode(), flow.time_grid(4))
      >>> print(x_0[0])
      [1.]
    """
    check_callable(denoise)
    y, var = promote(_as_floats("y", y), _as_floats("var", var))
    _check_values(y, var)
    known_var = concrete(var)
    if known_var is not None and np.all(np.isinf(known_var)):
        return denoise

    def condition(prediction: GaussianMixture | Guided, x_t: jax.Array) -> Observed:
        if y.shape != jnp.shape(x_t):
            raise ValueError(
                f"y has shape {y.shape}, but x_t has shape {jnp.shape(x_t)}: an observation needs the shape "
                "of the state, [B, ..., D]. Use jnp.broadcast_to to give all samples the same observation."
            )
        prediction, mean, variance = promote(prediction, y, var)
        mean, variance = rows_like((mean, _for_each_sample(variance, x_t)), x_t)
        return _multiply(prediction, gaussian_factor(mean, variance))

    return _conditioned(denoise, condition)


def observe_approximately(
    denoise: Callable, log_likelihood: Callable[[jax.Array], jax.Array], precision: ArrayLike
) -> Callable[[jax.Array, jax.Array], GaussianMixture | Guided]:
    r"""Condition a denoiser on any differentiable likelihood of x_0, to first order: an approximation.

    The prediction is multiplied by the expansion of the likelihood about its mean m,

    $$\exp\left(g \cdot (x_0 - m) - \lambda |x_0 - m|^2 / 2\right), \quad
    g = \nabla_{x_0} \log p(y | x_0) \text{ at } x_0 = m.$$

    Use it for masks within a pixel, blur and downsampling, and `observe`, which is exact, for Gaussian noise
    of one variance in all channels of a pixel. It does not choose between modes: the precision pulls channels
    that are not observed, too, towards the mean of all modes. For precision 0 the factor is linear in x_0. It
    then overshoots where the likelihood is narrower than the prediction, and samples may end anywhere,
    such as at 1e5. A precision that bounds the curvature of -log p(y | x_0) prevents this: the factor is then
    nowhere above the likelihood, up to a constant. Samples still spread more than those of p(x_0 | y).

    Args:
      denoise: as in `observe`.
      log_likelihood: x_0 [B, ..., D] -> log p(y | x_0), up to a constant: [B], or the sum over samples.
      precision: lambda, a scalar or an array of the rank of `*batch`, >= 0; 0 is the linear factor, for vague
        likelihoods only. For y = A x_0 + noise of variance v, the bound is the largest eigenvalue of A^T A,
        divided by v: 1 / v for a mask or a blur, and 1 / (n v) if A averages n pixels.

    Returns:
      denoise(x_t, t) -> `Observed`.

    Raises:
      ValueError: if precision is negative or not finite; by denoise, if log_likelihood returns neither a
        float nor [B] floats, or shapes do not fit.

    Source:
      This library. Compare Chung et al. 2023 (arXiv 2209.14687), which follows the gradient with respect to
      x_t instead.

    Example:
      Only the first channel is observed:

      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import gm, guidance
      >>> denoise = lambda x_t, t: gm.Gaussian(x_t, jnp.ones(()))  # stands for a network
      >>> log_likelihood = lambda x_0: -jnp.square(x_0[..., 0] - 3.0) / 2
      >>> denoise = guidance.observe_approximately(denoise, log_likelihood, precision=1.0)
      >>> print(np.asarray(gm.mean(denoise(jnp.zeros((1, 2)), 0.5))).round(3))
      [[1.5 0. ]]
    """
    check_callable(denoise)
    check_callable(log_likelihood, "log_likelihood", "x_0 -> log p(y | x_0)")
    check_number("precision", precision, "[0, inf)")

    def condition(prediction: GaussianMixture | Guided, x_t: jax.Array) -> Observed:
        del x_t
        prediction, curvature = promote(prediction, precision)
        mean = weighted_mean(mixture_of(prediction))
        check_scale_shape(curvature, mean.shape[:-1], "precision")
        curvature = rows_like(_for_each_sample(curvature, mean), mean)
        slope = reshard_like(jax.grad(lambda x_0: _total(log_likelihood(x_0), x_0))(mean), mean)
        return _multiply(prediction, Factor(mean, slope, curvature, jnp.ones_like(curvature)))

    return _conditioned(denoise, condition)


def unobserved(prediction: GaussianMixture | Guided) -> GaussianMixture | Guided:
    """Return a prediction as it was before observations."""
    return prediction.prediction if isinstance(prediction, Observed) else prediction


def mixture_of(prediction: GaussianMixture | Guided) -> GaussianMixture:
    """Return the mixture over x_0 to sample from: given the observation and guided, if these exist."""
    return prediction.mixture if isinstance(prediction, (Guided, Observed)) else prediction


def observe_by(
    prediction: GaussianMixture | Guided, factor: Factor, parts: tuple[GaussianMixture, Factor] | None
) -> Observed:
    """Multiply a prediction that is not observed by a factor, in one tilt.

    Args:
      prediction: the prediction.
      factor: the factor.
      parts: a mixture and a factor whose product the prediction's mixture is; None if it was not tilted.

    Returns:
      The observed prediction.
    """
    given = times(mixture_of(prediction), factor, parts)
    return Observed(given.means, given.log_weights, given.log_std, prediction, factor)


def _multiply(prediction: GaussianMixture | Guided, factor: Factor) -> Observed:
    """Multiply a prediction, which may be observed already, by a factor."""
    if isinstance(prediction, Observed):
        factor = combine(prediction.observation, factor)
    inner = unobserved(prediction)
    return observe_by(inner, factor, (inner.base, inner.mask) if isinstance(inner, Guided) else None)


def _conditioned(denoise: Callable, condition: Callable) -> Callable:
    """Return a denoiser whose predictions are conditioned; an aux beside the prediction stays."""

    def conditioned(x_t: jax.Array, t: jax.Array):
        prediction, aux = split_aux(denoise(x_t, t))
        if aux and isinstance(aux[0], _PREDICTIONS):  # the two predictions of in_one_batch
            prediction, aux = (prediction, *aux), ()
        return join_aux(condition(_checked(prediction, x_t), x_t), aux)

    return conditioned


_PREDICTIONS = (GaussianMixture, Gaussian, Guided)


def _checked(prediction, x_t: jax.Array) -> GaussianMixture | Guided:
    if not isinstance(prediction, _PREDICTIONS):
        given = "an array" if isinstance(prediction, jax.Array) else f"a {type(prediction).__name__}"
        raise ValueError(
            f"denoise returned {given}, but only a mixture over x_0 or a guided "
            "prediction can be observed. Wrap a velocity function in flow.denoiser, and put the observation "
            "around guidance.guided_denoiser."
        )
    (prediction,) = promote(prediction)
    if not isinstance(prediction, (Guided, Observed)):
        prediction = normalised(as_mixture(prediction))
    check_over(mixture_of(prediction), x_t)
    return rows_like(prediction, x_t)


def _for_each_sample(value: jax.Array, x: jax.Array) -> jax.Array:
    """Broadcast the leading axis of an array of the rank of `*batch`, as a solver's state needs it."""
    return jnp.broadcast_to(value, (x.shape[0], *value.shape[1:])) if value.ndim else value


def _total(value: jax.Array, x_0: jax.Array) -> jax.Array:
    value = jnp.asarray(value)
    if value.shape not in ((), x_0.shape[:-1][:1]) or not jnp.issubdtype(value.dtype, jnp.floating):
        raise ValueError(
            f"log_likelihood returned {value.dtype} of shape {value.shape} for x_0 of shape {x_0.shape}, but "
            "it must return one float for each sample, or their sum. Sum over the axes of a sample."
        )
    return jnp.sum(value)


def _as_floats(name: str, value: ArrayLike) -> jax.Array:
    """Return a value as an array of floats; raise ValueError if it is none."""
    try:
        array = jnp.asarray(None if isinstance(value, str) else value)
    except (TypeError, ValueError):
        raise ValueError(
            f"{name} is of {type(value).__name__}, but must be an array of floats. {_ADVICE[name]}"
        ) from None
    number = name == "var" and not array.ndim and jnp.issubdtype(array.dtype, jnp.integer)
    if not number and not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} is of {array.dtype}, but must be an array of floats. {_ADVICE[name]}")
    return array


_ADVICE = {
    "y": "Convert pixels as the training data was converted, for example images / 127.5 - 1.",
    "var": "It has the variances of the noise: for a mask of known pixels, jnp.where(mask, 0.0, jnp.inf).",
}


def _check_values(y: jax.Array, var: jax.Array) -> None:
    if not y.ndim:
        raise ValueError("y is a scalar, but must have the shape [B, ..., D] of the state. Add its axes.")
    check_scale_shape(var, y.shape[:-1], "var")
    if not is_within(var, "[0, inf]"):
        raise ValueError(
            "var has values that are negative or NaN, but a variance is at least 0. Give inf where nothing "
            "is known, and 0 where x_0 is known."
        )
    values, spread = concrete(y), concrete(var)
    if values is None or spread is None:
        return
    lost = ~np.isfinite(values) & ~np.isinf(spread[..., None])
    if np.any(lost):
        raise ValueError(
            f"y has {np.count_nonzero(lost)} values that are not finite where var is finite, so that they "
            "cannot be observations. Give var = inf where nothing is known."
        )
