"""Exponential moving averages (EMA) of the parameters, with decays that depend on the iteration."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

Decay = Callable[[ArrayLike], jax.Array]


def update_ema(ema_params: Any, params: Any, decay: ArrayLike) -> Any:
    """Update an average of the parameters.

    Args:
      ema_params: the average, a pytree.
      params: the new parameters, of the same structure.
      decay: weight of the old average, in [0, 1].

    Returns:
      `decay * ema_params + (1 - decay) * params`.
    """
    return optax.incremental_update(params, ema_params, 1.0 - decay)


def constant_decay(decay: float) -> Decay:
    """Return a decay that is the same at every iteration.

    Raises:
      ValueError: if `decay` is outside [0, 1].
    """
    _check_unit(decay, "decay")
    return lambda iteration: jnp.full(jnp.shape(iteration), decay, jnp.float32)


def ramp_up_decay(
    half_life_images: float, global_batch_size: int, ramp_up: float | None = 0.05
) -> Decay:
    r"""Return a decay whose half life, in images, grows with the images seen.

    At the 0-based iteration i, with B images in a batch, the decay is $2^{-B / h}$ with the half life
    $h = \min(\mathrm{half\_life\_images},\ \mathrm{ramp\_up} \cdot (i + 1) B)$.

    Args:
      half_life_images: largest half life, in images.
      global_batch_size: images in a batch over all devices.
      ramp_up: half life as a fraction of the images seen; None keeps the largest half life throughout.

    Returns:
      A function from the iteration to the decay.

    Raises:
      ValueError: if a number is not positive or not finite.

    Source:
      Karras et al. 2020 (StyleGAN2-ADA, arXiv 2006.06676). GMFlow uses 3e7 images and 0.05 for ImageNet.
    """
    if not (0 < half_life_images < math.inf and 0 < global_batch_size < math.inf):
        raise ValueError(
            f"The EMA needs a positive half life and batch size, but half_life_images is "
            f"{half_life_images} and global_batch_size is {global_batch_size}; give both in images."
        )
    if ramp_up is not None and not 0 < ramp_up < math.inf:
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
    r"""Return the decay of a power-function EMA, $(1 - 1 / (i + 1))^{\gamma + 1}$; it is 0 at iteration 0.

    The average has a width that is a fixed fraction of the iterations, see `power_std`.

    Args:
      gamma: exponent of the profile, above -1.

    Returns:
      A function from the 0-based iteration to the decay.

    Raises:
      ValueError: if `gamma` is -1 or less, or not finite.

    Source:
      Karras et al. 2024 (EDM2, arXiv 2312.02696). GMFlow uses gamma = 7 for the checkerboard.
    """
    if not -1 < gamma < math.inf:
        raise ValueError(
            f"gamma is {gamma}, but the power gamma + 1 must be positive; give a finite number above -1."
        )
    return lambda iteration: jnp.exp(_log_karras_decay(gamma, iteration))


def karras_rate(gamma: float, iteration: ArrayLike) -> jax.Array:
    """Return 1 - `karras_decay(gamma)(iteration)` to all digits; a decay near 1 has lost some by rounding."""
    return -jnp.expm1(_log_karras_decay(gamma, iteration))


def _log_karras_decay(gamma: float, iteration: ArrayLike) -> jax.Array:
    # With log1p, since a power of a float32 near 1 would lose digits.
    return (gamma + 1.0) * jnp.log1p(-1.0 / (_float(iteration) + 1.0))


def warm_up_decay(max_decay: float) -> Decay:
    """Return the decay min(max_decay, (1 + i) / (10 + i)) of the 0-based iteration i, common for short runs.

    Raises:
      ValueError: if `max_decay` is outside [0, 1].
    """
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
