"""Gaussian fields with a given power spectrum, and their spectral coefficients."""

import jax
import jax.numpy as jnp

from gmflow_jax._arguments import check_same_shape, promote


def spectral_coefficients(field: jax.Array) -> jax.Array:
    """Compute Re + Im of the orthonormal Fourier transform over height and width, a Hartley transform.

    The transform is real, orthogonal and its own inverse, for any size.

    Args:
      field: real, [..., H, W, D].

    Returns:
      The same shape. H and W become frequencies in the order of an FFT, zero first.

    Raises:
      ValueError: if there are fewer than three axes.
    """
    (field,) = promote(field)
    if field.ndim < 3:
        raise ValueError(
            f"field has shape {field.shape}, but its spectrum is taken over height and width: it needs "
            "the axes [..., H, W, D]. Add axes of size 1 for those that are missing."
        )
    half = jnp.fft.rfft2(field, axes=(-3, -2), norm="ortho")
    # rfft2 leaves out columns that are the complex conjugates of those at the opposite frequencies.
    opposite = (half.real - half.imag)[..., 1 : (field.shape[-2] + 1) // 2, :]
    opposite = jnp.roll(jnp.flip(opposite, (-3, -2)), 1, axis=-3)
    return jnp.concatenate([half.real + half.imag, opposite], axis=-2)


def spectral_field(z: jax.Array, log_power: jax.Array) -> jax.Array:
    """Turn white noise into a Gaussian field with a given power spectrum.

    Args:
      z: standard normals, [..., H, W, D].
      log_power: log variance of each of the field's `spectral_coefficients`, [..., H, W, D]. 0 gives white
        noise. If exp(log_power) has mean 1 over H and W, the field has unit variance.

    Returns:
      The field, [..., H, W, D].

    Raises:
      ValueError: if the shapes differ or have fewer than three axes.

    Source:
      GMFlow (arXiv 2504.05304), appendix A.3.
    """
    z, log_power = promote(z, log_power)
    check_same_shape(z=z, log_power=log_power)
    return spectral_coefficients(z * jnp.exp(0.5 * log_power))
