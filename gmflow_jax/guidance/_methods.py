"""The names of the guidance methods, and the checks of their scales."""

import jax
import numpy as np

from gmflow_jax._arguments import concrete

# Guidance methods, each with the scale at which it has no effect.
METHODS = {"probabilistic": 0.0, "cfg": 1.0}

# The share of the difference's component parallel to the conditional mean that each removes unless asked.
USUAL_ORTHOGONAL = {"probabilistic": 1.0, "cfg": 0.0}


def check_guidance_scale(scale: jax.Array | float, method: str = "probabilistic") -> None:
    """Raise if the method is unknown or the scale is out of its range. A traced scale is not checked.

    Args:
      scale: guidance scale.
      method: one of `METHODS`.

    Raises:
      ValueError: if the method is unknown; if the scale is outside [0, 1) for 'probabilistic', or less than
        1 or infinite for 'cfg'.
    """
    check_method(method)
    value = concrete(scale)
    if value is None:
        return
    if method == "cfg" and np.any(np.isposinf(value)):
        raise ValueError(f"guidance_scale is {scale}, but for classifier-free guidance it must be finite.")
    if method == "cfg" and not np.all(value >= METHODS["cfg"]):
        raise ValueError(
            f"guidance_scale must be at least 1 for classifier-free guidance, but {scale} was given: 1 means "
            "no guidance, and smaller values guide away from the condition. Typical values are 1.2 to 6.5."
        )
    if method == "probabilistic" and not np.all((value >= 0) & (value < 1)):
        raise ValueError(
            f"guidance_scale must be in [0, 1) for probabilistic guidance, but {scale} was given: at 1 "
            "the guided variance would vanish. Typical values are 0.02 to 0.75; 0 is no guidance. For "
            "classifier-free guidance choose the method 'cfg'."
        )


def check_method(method: str) -> None:
    if method not in METHODS:
        raise ValueError(f"method {method!r} is unknown. Choose one of {', '.join(METHODS)}.")
