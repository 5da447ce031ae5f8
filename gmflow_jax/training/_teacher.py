"""The velocity of a teacher for distillation, guided or not."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gmflow_jax import flow, gm, guidance
from gmflow_jax.gm import GaussianMixture


def make_teacher(
    apply: Callable[..., Any],
    guidance_scale: float | None = None,
    num_classes: int | None = None,
    *,
    method: str = "probabilistic",
    orthogonal: float | None = None,
    interval: tuple[float, float] = (0.0, 1.0),
) -> Callable[..., jax.Array]:
    """Make the velocity function of a network, as `make_distillation_step` needs it.

    Args:
      apply: apply(params, x_t, t, labels), or apply(params, x_t, t) without labels, returns the velocity, or
        a mixture over it.
      guidance_scale: `scale` of `guidance.guided_denoiser`; None for the conditional prediction alone.
      num_classes: number of classes, and the null label; needed for guidance.
      method: `method` of `guidance.guided_denoiser`.
      orthogonal: `orthogonal` of `guidance.guided_denoiser`.
      interval: `interval` of `guidance.guided_denoiser`.

    Returns:
      velocity(params, x_t, t, labels) -> [B, ..., D], the mean velocity at x_t [B, ..., D] and t [B]. With
      guidance, it is the velocity of the guided mean of x_0.

    Raises:
      ValueError: if guidance lacks `num_classes`, or an option of the guidance is not valid.
    """
    if guidance_scale is None:
        return lambda params, x_t, t, *labels: _mean(apply(params, x_t, t, *labels))
    if not num_classes:
        raise ValueError(
            f"The teacher is to be guided with the scale {guidance_scale}, but num_classes is {num_classes}, "
            "so the null label is unknown; give num_classes, or guidance_scale=None."
        )
    options = {"method": method, "orthogonal": orthogonal, "interval": interval}
    guidance.guided_denoiser(_mean, _mean, guidance_scale, **options)  # raises here if an option is wrong

    def velocity(params, x_t, t, labels=None):
        if labels is None:
            raise ValueError(
                f"The teacher is guided with the scale {guidance_scale}, but the batch has no labels, so "
                "there is nothing to guide to; give labels, or guidance_scale=None."
            )

        def denoise(x_t, t, labels):
            return flow.denoiser(lambda x, t: apply(params, x, t, labels))(x_t, t)

        both = guidance.in_one_batch(denoise, labels, jnp.full_like(labels, num_classes))
        guided = guidance.guided_denoiser(both, None, guidance_scale, **options)(x_t, t)
        mixture = guided.mixture if isinstance(guided, guidance.Guided) else guided
        return flow.to_velocity(gm.mean(mixture), x_t, t)

    return velocity


def _mean(prediction: Any) -> jax.Array:
    return gm.mean(prediction) if isinstance(prediction, (GaussianMixture, gm.Gaussian)) else prediction
