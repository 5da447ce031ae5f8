"""The Hartley transform and Gaussian fields of a given power."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import flow
from tests.helpers import assert_message_names

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")

SIZES = [(4, 6), (5, 3), (2, 5), (1, 4), (3, 1), (1, 1)]
TOLERANCE = {np.float32: 2e-6, np.float64: 1e-14}  # measured: 6e-7 and 2e-15

coefficients_of = jax.jit(flow.spectral_coefficients)
field_of = jax.jit(flow.spectral_field)


@pytest.fixture
def dtype(precision):
    return precision[0]


def waves(height, width):
    """cos - sin of every plane wave, of norm 1: [H * W, H, W, 1], frequency by frequency."""
    k, m, i, j = np.meshgrid(*(np.arange(n) for n in (height, width) * 2), indexing="ij")
    angle = 2 * np.pi * (k * i / height + m * j / width)
    return ((np.cos(angle) - np.sin(angle)) / np.sqrt(height * width)).reshape(-1, height, width, 1)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_each_wave_has_one_coefficient(dtype, height, width):
    found = coefficients_of(jnp.asarray(waves(height, width), dtype))
    assert found.dtype == dtype
    identity = np.eye(height * width).reshape(found.shape)
    np.testing.assert_allclose(found, identity, atol=TOLERANCE[dtype])


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_the_transform_is_orthogonal_and_its_own_inverse(dtype, random_state, height, width):
    field, other = (random_state(seed, 2, height, width, 3).astype(dtype) for seed in (0, 1))
    again = coefficients_of(coefficients_of(field))
    np.testing.assert_allclose(again, field, atol=3 * TOLERANCE[dtype])
    # The adjoint of a symmetric orthogonal map is the map.
    adjoint = jax.jit(lambda c: jax.vjp(flow.spectral_coefficients, field)[1](c)[0])(other)
    np.testing.assert_allclose(adjoint, coefficients_of(other), atol=3 * TOLERANCE[dtype])


def test_zero_log_power_gives_white_noise(random_state):
    z = random_state(2, 3, 5, 4, 2)
    white = field_of(z, jnp.zeros_like(z))
    np.testing.assert_array_equal(white, coefficients_of(z))
    np.testing.assert_allclose(jnp.sum(white**2), jnp.sum(z**2), rtol=1e-6)


def test_coefficients_of_a_field_have_the_power_as_variance(random_state):
    """Also where opposite frequencies differ; the field's variance over pixels is the mean power."""
    n, shape = 20_000, (4, 3, 2)
    log_power = 1.5 * random_state(3, 1, *shape)
    z = random_state(4, n, *shape)
    field = field_of(z, jnp.broadcast_to(log_power, z.shape))
    power, standard_error = np.exp(log_power[0]), np.sqrt(2 / n)
    variance = np.var(coefficients_of(field), axis=0)
    np.testing.assert_allclose(variance / power, 1, atol=5 * standard_error)
    total = np.mean(np.square(field), axis=(0, 1, 2))
    np.testing.assert_allclose(total, np.mean(power, axis=(0, 1)), rtol=0.02)


def test_leading_axes_are_batch_axes(random_state):
    z, log_power = random_state(5, 2, 3, 4, 5, 2), random_state(6, 2, 3, 4, 5, 2)
    batched = field_of(z, log_power)
    np.testing.assert_allclose(batched[1, 2], flow.spectral_field(z[1, 2], log_power[1, 2]), atol=1e-6)
    mapped = jax.jit(jax.vmap(jax.vmap(flow.spectral_field)))(z, log_power)
    np.testing.assert_allclose(mapped, batched, atol=1e-6)


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="spectrum") as error:
        flow.spectral_coefficients(jnp.zeros((4, 3)))
    assert_message_names(error, "(4, 3)", "[..., H, W, D]")
    with pytest.raises(ValueError, match="same shape") as error:
        flow.spectral_field(jnp.zeros((2, 4, 4, 3)), jnp.zeros((4, 4, 3)))
    assert_message_names(error, "z (2, 4, 4, 3)", "log_power (4, 4, 3)")
