"""Guided denoisers, the form in which solvers take guidance."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from gmflow_jax._arguments import concrete, expand_time, join_aux, split_aux
from gmflow_jax._meshes import rows_like, where
from gmflow_jax.gm._types import Gaussian, GaussianMixture
from gmflow_jax.guidance._formulas import classifier_free_guidance, expand_scale, probabilistic_guidance
from gmflow_jax.guidance._methods import METHODS, USUAL_ORTHOGONAL, check_guidance_scale, check_method
from gmflow_jax.guidance._observe import Observed
from gmflow_jax.guidance._one_batch import OneBatch


def guided_denoiser(
    denoise: Callable,
    denoise_uncond: Callable | None,
    scale: jax.Array | float,
    method: str = "probabilistic",
    orthogonal: float | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
    sample_axes: tuple[int, ...] | None = None,
) -> Callable:
    """Combine a conditional and an unconditional denoiser into one guided denoise(x_t, t).

    Args:
      denoise: (x_t, t) -> conditional GaussianMixture over x_0, or a pair of it and an aux, which is returned
        beside the guided prediction.
      denoise_uncond: (x_t, t) -> unconditional GaussianMixture over x_0. None if `denoise` returns both
        predictions, as the result of `in_one_batch` does.
      scale: guidance scale. For 'probabilistic' in [0, 1), where 0 means no guidance; for 'cfg' usually at
        least 1, where 1 means no guidance. It may be traced, so that another scale needs no compilation.
      method: 'probabilistic' (`probabilistic_guidance`) or 'cfg' (`classifier_free_guidance` of x_0).
      orthogonal: share of the difference's component parallel to the conditional mean that is removed, 0 to
        1. None means 1 for 'probabilistic' and 0, plain classifier-free guidance, for 'cfg'.
      interval: times (low, high) between which guidance acts, both ends included. Outside it the
        unconditional network is not called (`jax.lax.cond`), unless `jax.vmap` over the times turns the
        branch into a selection, for which both networks run. With one time per sample it is called if any of
        them is inside.
      sample_axes: axes of one sample, over which variances and mean squares are taken: (1, 2) for
        [B, H, W, D]. None takes all batch axes but the first.

    Returns:
      denoise(x_t, t) -> `Guided` for 'probabilistic', GaussianMixture for 'cfg'; or, if the scale is known to
      mean no guidance, the conditional denoiser itself, so that no unconditional call is made.

    Raises:
      ValueError: if the method is unknown, interval is not 0 <= low <= high <= 1, or the scale of
        'probabilistic' is outside [0, 1). The scale of 'cfg' and a traced scale are not checked.

    Source:
      GMFlow (arXiv 2504.05304), eq. 7-8; Kynkaanniemi et al. 2024 (arXiv 2404.07724) for the interval.

    Example:
      >>> import jax.numpy as jnp
      >>> from gmflow_jax import flow, guidance, solvers
      >>> cond = flow.denoiser(lambda x, t: x - 1)  # stands for a network with the label
      >>> uncond = flow.denoiser(lambda x, t: x)  # and without
      >>> denoise = guidance.guided_denoiser(cond, uncond, scale=0.3)
      >>> x_0 = solvers.sample(None, denoise, jnp.ones((4, 2)), solvers.gm_ode(), flow.time_grid(4))
      >>> x_0.shape
      (4, 2)
    """
    check_method(method)
    low, high = interval
    if not 0 <= low <= high <= 1:
        raise ValueError(f"interval must be (low, high) with 0 <= low <= high <= 1, not {interval}.")
    if method == "probabilistic":
        check_guidance_scale(scale)
    combine = _FORMULAS[method]
    orthogonal = USUAL_ORTHOGONAL[method] if orthogonal is None else orthogonal
    conditional, both = _parts(denoise, denoise_uncond)
    off, known_scale = METHODS[method], concrete(scale)
    if known_scale is not None and np.all(known_scale == off):
        return conditional

    def guided(x_t: jax.Array, t: jax.Array):
        t = jnp.asarray(t)
        inside = expand_time((t >= low) & (t <= high), x_t.shape[:-1])
        active = where(inside, expand_scale(jnp.asarray(scale), x_t.shape[:-1]), off)

        def with_guidance():
            (cond, aux), (uncond, _) = map(split_aux, both(x_t, t))
            _check_pair(cond, uncond)
            cond, uncond = rows_like((cond, uncond), x_t)
            with jax.named_scope("guidance"):
                return join_aux(combine(cond, uncond, active, orthogonal, sample_axes), aux)

        def without():  # the same formula, so that both branches return the same types
            prediction, aux = split_aux(conditional(x_t, t))
            prediction = rows_like(prediction, x_t)
            return join_aux(combine(prediction, prediction, active, orthogonal, sample_axes), aux)

        def without_in_dtypes():  # which may differ if only the unconditional prediction is float64
            types = jax.eval_shape(with_guidance)
            return jax.tree.map(lambda a, b: jnp.asarray(a, b.dtype), without(), types)

        known = np.True_ if (low, high) == (0, 1) else concrete(inside)
        if known is None:
            return jax.lax.cond(jnp.any(inside), with_guidance, without_in_dtypes)
        return with_guidance() if np.any(known) else without()

    return guided


_FORMULAS = {"probabilistic": probabilistic_guidance, "cfg": classifier_free_guidance}


def _parts(denoise: Callable, denoise_uncond: Callable | None) -> tuple[Callable, Callable]:
    """Return (x_t, t) -> the conditional prediction, and (x_t, t) -> both predictions."""
    if denoise_uncond is not None:
        return denoise, lambda x_t, t: (denoise(x_t, t), denoise_uncond(x_t, t))
    alone = denoise.conditional if isinstance(denoise, OneBatch) else lambda x_t, t: denoise(x_t, t)[0]
    return alone, denoise


def _check_pair(cond, uncond) -> None:
    for prediction in (cond, uncond):
        if not isinstance(prediction, (GaussianMixture, Gaussian, jax.Array)):
            raise ValueError(
                f"Guidance needs the conditional and the unconditional prediction, but one is of type "
                f"{type(prediction).__name__}. Give denoise_uncond, or None and the result of in_one_batch."
            )
    if isinstance(cond, Observed) != isinstance(uncond, Observed):
        raise ValueError(
            "Only one of the two predictions is observed, so that guidance would change what is known. Put "
            "guidance.observe around the guided denoiser."
        )
