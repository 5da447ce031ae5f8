"""Guidance towards a condition: GMFlow's probabilistic guidance, and classifier-free guidance."""

from gmflow_jax.guidance._denoisers import guided_denoiser, in_one_batch
from gmflow_jax.guidance._formulas import Guided, classifier_free_guidance, probabilistic_guidance
from gmflow_jax.guidance._methods import METHODS, USUAL_ORTHOGONAL, check_guidance_scale

__all__ = [
    "METHODS", "USUAL_ORTHOGONAL", "Guided", "check_guidance_scale", "classifier_free_guidance",
    "guided_denoiser", "in_one_batch", "probabilistic_guidance",
]
