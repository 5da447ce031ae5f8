"""The power spectrum of noise: spatially correlated standard normals and their coefficients."""

import jax
import jax.numpy as jnp

from gmflow_jax._arguments import check_same_shape, promote


def spectral_coefficients(field: jax.Array) -> jax.Array:
    """Re + Im of the orthonormal Fourier transform over height and width, a Hartley transform.

    Real, orthogonal and its own inverse, for any size.

    Args:
      field: [..., H, W, D], real.

    Returns:
      Same shape; H and W become frequencies in the order of an FFT, zero first.

    Raises:
      ValueError: if there are fewer than three axes.
    """
    (field,) = promote(field)
    if field.ndim < 3:
        raise ValueError(
            f"field has shape {field.shape}, but its spectrum is taken over height and width: it needs "
            "the axes [..., H, W, D]. Add axes of size 1 where one is missing."
        )
    half = jnp.fft.rfft2(field, axes=(-3, -2), norm="ortho")
    # The columns left out are the conjugates of those at the opposite frequencies.
    opposite = (half.real - half.imag)[..., 1 : (field.shape[-2] + 1) // 2, :]
    opposite = jnp.roll(jnp.flip(opposite, (-3, -2)), 1, axis=-3)
    return jnp.concatenate([half.real + half.imag, opposite], axis=-2)


def spectral_field(z: jax.Array, log_power: jax.Array) -> jax.Array:
    """A Gaussian field with a given power spectrum, from white noise (appendix A.3).

    Args:
      z: standard normals, [..., H, W, D].
      log_power: log variance of each of the field's `spectral_coefficients`, same shape. 0 leaves
        white noise; where exp(log_power) averages to 1 over H and W, so does the field's variance.

    Raises:
      ValueError: if the shapes differ or have fewer than three axes.
    """
    z, log_power = promote(z, log_power)
    check_same_shape(z=z, log_power=log_power)
    return spectral_coefficients(z * jnp.exp(0.5 * log_power))
