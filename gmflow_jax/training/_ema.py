"""Exponential moving average of the parameters, with decays that depend on the iteration."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

Decay = Callable[[ArrayLike], jax.Array]


def update_ema(ema_params: Any, params: Any, decay: ArrayLike) -> Any:
    """Returns `decay * ema_params + (1 - decay) * params`, leaf by leaf."""
    return optax.incremental_update(params, ema_params, 1.0 - decay)


def constant_decay(decay: float) -> Decay:
    """Returns the decay that is the same at every iteration."""
    _check_unit(decay, "decay")
    return lambda iteration: jnp.full(jnp.shape(iteration), decay, jnp.float32)


def ramp_up_decay(
    half_life_images: float, global_batch_size: int, ramp_up: float | None = 0.05
) -> Decay:
    """Returns the decay with a half life in images that grows with the images seen.

    At the 0-based iteration i the half life is the smaller of `half_life_images` and `ramp_up`
    times the images seen after it, (i + 1) * global_batch_size; `ramp_up` None keeps it constant.
    Source: Karras et al. 2020 (StyleGAN2-ADA), as used for ImageNet in GMFlow (3e7 images, 0.05).
    """
    if half_life_images <= 0 or global_batch_size <= 0:
        raise ValueError(
            f"The EMA needs a positive half life and batch size, but half_life_images is "
            f"{half_life_images} and global_batch_size is {global_batch_size}; give both in images."
        )
    if ramp_up is not None and ramp_up <= 0:
        raise ValueError(
            f"ramp_up is {ramp_up}, but a half life cannot shrink to nothing; give a positive "
            "fraction, or None for a constant half life."
        )

    def decay(iteration: ArrayLike) -> jax.Array:
        half_life_steps = jnp.float32(half_life_images / global_batch_size)
        if ramp_up is not None:
            half_life_steps = jnp.minimum(half_life_steps, ramp_up * (_float(iteration) + 1.0))
        return jnp.exp2(-1.0 / half_life_steps)

    return decay


def karras_decay(gamma: float) -> Decay:
    """Returns the decay (1 - 1 / (i + 1)) ** (gamma + 1), 0 at the first iteration.

    The average then has a fixed relative width. Source: Karras et al. 2024 (EDM2), power-function
    EMA; GMFlow uses gamma 7 for the checkerboard.
    """
    if gamma <= -1:
        raise ValueError(f"gamma is {gamma}, but the power gamma + 1 must be positive.")
    # Through log1p: the power of a float32 near 1 would lose the rate that is left to 1.
    return lambda iteration: jnp.exp((gamma + 1.0) * jnp.log1p(-1.0 / (_float(iteration) + 1.0)))


def warm_up_decay(max_decay: float) -> Decay:
    """Returns the decay min(max_decay, (1 + i) / (10 + i)), common for short runs."""
    _check_unit(max_decay, "max_decay")
    return lambda iteration: jnp.minimum(
        max_decay, (1.0 + _float(iteration)) / (10.0 + _float(iteration))
    )


def _float(iteration: ArrayLike) -> jax.Array:
    return jnp.asarray(iteration).astype(jnp.float32)


def _check_unit(decay: float, name: str) -> None:
    if not 0.0 <= decay <= 1.0:
        raise ValueError(
            f"{name} is {decay}, but an average needs a weight between 0 and 1; "
            "typical values are 0.99 to 0.9999."
        )
