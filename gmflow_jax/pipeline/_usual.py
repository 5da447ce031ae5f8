"""The options with which a network is sampled if none are given."""

import warnings
from typing import Any, NamedTuple

from gmflow_jax.guidance import METHODS
from gmflow_jax.interop import Bundle
from gmflow_jax.pipeline._sampler import Recipe

_AUTHORS = 32, 0.45  # steps and guidance scale


class Usual(NamedTuple):
    """Options of a sampler.

    Attributes:
      num_steps: number of steps.
      order: order of gm_ode and gm_sde.
      num_substeps: number of sub-steps in each step of gm_ode and gm_pc.
      guidance_scale: scale of the guidance.
    """

    num_steps: int
    order: int
    num_substeps: int
    guidance_scale: float


def usual_options(
    num_calls: int | None, num_steps: int | None = None, guidance: str = "probabilistic"
) -> Usual:
    """Return the options of a network: the authors' for 32 steps, or those of a distilled network.

    A distilled network is sampled in the number of steps that it was distilled for, with order 1, 128
    sub-steps in all, and without guidance, which is its teacher's.

    Args:
      num_calls: number of calls that the network was distilled for; None for other networks.
      num_steps: number of steps; None is the usual one.
      guidance: `method` of `guidance.guided_denoiser`.

    Returns:
      The options.
    """
    if num_calls is None:
        steps, scale = _AUTHORS
        recipe = Recipe()
        return Usual(num_steps or steps, recipe.order, recipe.num_substeps, scale)
    steps = num_steps or num_calls
    return Usual(steps, 1, max(128 // steps, 2), METHODS.get(guidance, 0.0))


def usual_recipe(bundle: Bundle, num_steps: int | None = None, **given: Any) -> Recipe:
    """Return the recipe of a network if none is given.

    Args:
      bundle: the networks.
      num_steps: number of steps; None is the usual one.
      **given: fields of `Recipe` to use instead of the usual ones; None is the usual one.

    Returns:
      The recipe.
    """
    usual = usual_options(bundle.num_calls, num_steps)
    fields = {
        "order": usual.order, "num_substeps": usual.num_substeps, "guided": bundle.num_calls is None,
    }  # fmt: skip
    return Recipe(**fields | {name: value for name, value in given.items() if value is not None})


def warn_of_steps(num_calls: int | None, num_steps: int) -> None:
    """Warn if a network is sampled in another number of steps than it was distilled for."""
    if num_calls not in (None, num_steps):
        warnings.warn(
            f"The network was distilled for num_calls = {num_calls}, but num_steps is {num_steps}; expect "
            f"worse samples than with {num_calls}, the default.",
            stacklevel=3,
        )
