"""Changes of a mixture that few-step sampling uses: dropped components and temperature."""

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from gmflow_jax._arguments import append_axes, check_number, expand_time, promote
from gmflow_jax._meshes import where
from gmflow_jax._reductions import log_softmax, shifted_exp, sum_keeping
from gmflow_jax.gm._surrogate import batch_axes
from gmflow_jax.gm._types import GaussianMixture, as_mixture


def temper(q: GaussianMixture, temperature: ArrayLike) -> GaussianMixture:
    r"""Sharpen or flatten a mixture.

    The log-weights are divided by the temperature $T$ and normalised, and the variance is multiplied by it.
    $T < 1$ gives less variety, $T = 1$ changes nothing.

    Args:
      q: mixture over [*batch, D].
      temperature: T > 0, a scalar or [B] with one value for each entry of the leading batch axis.

    Returns:
      The mixture, with the same means.

    Raises:
      ValueError: if shapes do not fit, or the temperature is known and not positive.

    Source:
      pi-Flow (arXiv 2510.14974), sampling of text-to-image models.

    Example:
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import gm
      >>> q = gm.GaussianMixture(jnp.array([[-1.0], [1.0]]), jnp.log(jnp.array([0.2, 0.8])), jnp.zeros(()))
      >>> cold = gm.temper(q, 0.5)
      >>> print(np.exp(cold.log_weights).round(3), np.exp(2 * cold.log_std).round(3))
      [0.059 0.941] 0.5
    """
    check_number("temperature", temperature, "(0, inf)")
    q, temperature = promote(as_mixture(q), temperature)
    return temper_unchecked(q, expand_time(temperature, q.means.shape[:-2], "temperature"))


def temper_unchecked(q: GaussianMixture, temperature: jax.Array) -> GaussianMixture:
    """`temper` without promotion and checks, with a temperature at the rank of `*batch`."""
    _, largest = shifted_exp(q.log_weights)  # so that no temperature makes all weights 0
    empty = q.log_weights == -jnp.inf  # -inf / temperature would have NaN as its gradient
    scaled = where(empty, 0.0, q.log_weights - largest) / append_axes(temperature, 1)
    log_weights = log_softmax(where(empty, -jnp.inf, scaled))
    return GaussianMixture(q.means, log_weights, q.log_std + 0.5 * jnp.log(temperature))


def drop_components(
    key: jax.Array, q: GaussianMixture, rate: float, sample_axes: tuple[int, ...] | None = None
) -> GaussianMixture:
    """Drop each component of a sample with a given probability, the same for all its pixels.

    The weights of dropped components become 0, and the others are normalised. Where no weight would be left,
    nothing is dropped.

    Args:
      key: a PRNG key, or [B] keys, one for each entry of the leading batch axis.
      q: mixture over [*batch, D].
      rate: probability in [0, 1).
      sample_axes: axes of one sample, over which the draw is shared: (1, 2) for [B, H, W, D]. None takes all
        batch axes but the first.

    Returns:
      The mixture, with the same means and log_std.

    Raises:
      ValueError: if shapes do not fit, or the rate is outside [0, 1).

    Source:
      pi-Flow (arXiv 2510.14974), component dropout in the training of the mixture policy.

    Example:
      >>> import jax
      >>> import jax.numpy as jnp
      >>> import numpy as np
      >>> from gmflow_jax import gm
      >>> q = gm.GaussianMixture(jnp.zeros((2, 4, 1)), jnp.log(jnp.full((2, 4), 0.25)), jnp.zeros(()))
      >>> dropped = gm.drop_components(jax.random.key(0), q, rate=0.5)
      >>> print(np.exp(dropped.log_weights).sum(-1).round(3))
      [1. 1.]
    """
    check_number("rate", rate, "[0, 1)")
    q = as_mixture(q)
    *batch, size = q.log_weights.shape
    shared = batch_axes(sample_axes, len(batch))
    shape = (*(1 if axis in shared else n for axis, n in enumerate(batch)), size)
    keys = _checked_keys(key, shape[:-1])
    if keys.ndim:
        uniform = jax.vmap(lambda k: jax.random.uniform(k, shape[1:], jnp.float32))(keys)
    else:
        uniform = jax.random.uniform(keys, shape, jnp.float32)
    kept = where(uniform < jnp.asarray(rate, jnp.float32), -jnp.inf, q.log_weights)
    powers, largest = shifted_exp(kept)
    total = sum_keeping(powers)
    dropped = (kept - largest) - jnp.log(jnp.where(total > 0, total, 1.0))
    return dataclasses.replace(q, log_weights=jnp.where(total > 0, dropped, q.log_weights))


def _checked_keys(key: jax.Array, batch: tuple[int, ...]) -> jax.Array:
    """Return one typed key, or [B] typed keys for a draw of the shape `batch`."""
    dtype = getattr(key, "dtype", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not typed and (dtype != jnp.uint32 or not key.ndim):
        raise ValueError(
            f"key is {key!r}, but must be a PRNG key, such as jax.random.key(0), or one for each sample."
        )
    keys = key if typed else jax.random.wrap_key_data(key)
    if keys.ndim and keys.shape != batch[:1]:
        raise ValueError(
            f"Keys of shape {keys.shape} do not fit draws over the batch axes {batch}: pass one key, or one "
            "for each entry of the leading axis, which sample_axes must not name."
        )
    return keys
