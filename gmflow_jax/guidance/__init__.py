"""Guidance towards a condition, and conditioning on observations.

Guidance is GMFlow's probabilistic guidance or classifier-free guidance. An observation of x_0 with Gaussian
noise conditions a mixture exactly.
"""

from gmflow_jax.guidance._denoisers import guided_denoiser
from gmflow_jax.guidance._formulas import Guided, classifier_free_guidance, probabilistic_guidance
from gmflow_jax.guidance._methods import METHODS, USUAL_ORTHOGONAL, check_guidance_scale
from gmflow_jax.guidance._observe import Observed, observe, observe_approximately
from gmflow_jax.guidance._one_batch import in_one_batch

__all__ = [
    "METHODS", "USUAL_ORTHOGONAL", "Guided", "Observed", "check_guidance_scale", "classifier_free_guidance",
    "guided_denoiser", "in_one_batch", "observe", "observe_approximately", "probabilistic_guidance",
]
