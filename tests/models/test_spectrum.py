"""SpectrumMLP against the authors' network, and its limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gmflow_jax import interop
from gmflow_jax.gm import Gaussian
from gmflow_jax.models import SpectrumMLP, SpectrumMLPConfig, abstract, functional
from tests.helpers import all_finite, relative_error

# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")

TOLERANCE = 2e-6  # measured 5e-7, as the authors' own
CONFIG = SpectrumMLPConfig(base_size=8, num_channels=4, widths=(6, 5))


@pytest.fixture
def network(networks):
    """apply of the authors' weights."""
    weights = networks / "tiny_spectrum" / "spectrum_net" / "diffusion_pytorch_model.safetensors"
    params = interop.spectrum_mlp_from_torch(interop.load_safetensors(weights), CONFIG)
    apply = abstract(SpectrumMLP, CONFIG)[0]
    return jax.jit(lambda gaussian: apply(params, gaussian))


@pytest.mark.parametrize("size", ["h8w8", "h6w4", "h7w5"])
@pytest.mark.parametrize("per", ["pixel", "sample"])
def test_outputs_match_the_authors(network, networks, size, per):
    """For the base size and for smaller sizes, also odd ones, which use its low frequencies."""
    arrays = np.load(networks / "tiny_spectrum" / "io.npz")
    mean, var = arrays[f"{size}_mean"], arrays[f"{size}_var_per_{per}"]
    var = var.reshape(var.shape + (1,) * (3 - var.ndim))
    found = network(Gaussian(jnp.asarray(mean), jnp.asarray(var)))
    assert found.dtype == jnp.float32
    assert relative_error(found, arrays[f"{size}_out_log_var_from_{per}_var_f64"]) < TOLERANCE


def test_spectrum_of_the_pipeline_folder(networks):
    folder = networks / "tiny_gmdit"
    weights = interop.load_safetensors(folder / "spectrum_net" / "diffusion_pytorch_model.safetensors")
    arrays = np.load(folder / "spectrum_io.npz")
    gaussian = Gaussian(jnp.asarray(arrays["h6w4_mean"]), jnp.asarray(arrays["h6w4_var_per_pixel"]))
    found = abstract(SpectrumMLP, CONFIG)[0](interop.spectrum_mlp_from_torch(weights, CONFIG), gaussian)
    assert relative_error(found, arrays["h6w4_out_log_var_from_pixel_var_f64"]) < TOLERANCE


@pytest.fixture
def gaussian():
    rng = np.random.default_rng(0)
    mean, var = rng.normal(size=(3, 5, 8, 4)), rng.uniform(size=(3, 5, 8))
    return Gaussian(jnp.asarray(mean, jnp.float32), jnp.asarray(var, jnp.float32))


def test_power_averages_to_one(network, gaussian):
    power = np.exp(network(gaussian))
    np.testing.assert_allclose(power.mean((1, 2)), 1, rtol=1e-6)
    assert np.ptp(power) > 0.1


def test_a_batch_equals_a_loop_over_its_entries(network, gaussian):
    batched = network(gaussian)
    alone = network(jax.tree.map(lambda leaf: leaf[1:2], gaussian))
    np.testing.assert_allclose(alone[0], batched[1], atol=1e-6)


def test_the_output_depends_on_the_mean_variance_only(network, gaussian):
    mean = jnp.full((3, 1, 1), 0.3)
    broadcast = [network(Gaussian(gaussian.mean, var)) for var in (mean, mean[0, 0, 0])]
    around = gaussian.var - jnp.mean(gaussian.var, axis=(1, 2), keepdims=True) + 0.3
    for found in broadcast:
        np.testing.assert_allclose(found, network(Gaussian(gaussian.mean, around)), atol=1e-6)


def test_one_pixel_is_white_and_has_gradients(network):
    """The spatial variance of one pixel is 0, not 0 / 0 as an unbiased estimate would be."""
    one = Gaussian(jnp.ones((2, 1, 1, 4)), jnp.ones(()))
    np.testing.assert_array_equal(network(one), 0.0)
    gradient = jax.jit(jax.grad(lambda g: jnp.sum(network(g))))(one)
    assert all_finite(gradient)


def test_a_new_network_is_white_and_learns(gaussian):
    config = SpectrumMLPConfig(base_size=(5, 9), num_channels=4, widths=(7,))
    apply, params = functional(SpectrumMLP(config, nnx.Rngs(0)))
    np.testing.assert_allclose(jax.jit(apply)(params, gaussian), 0, atol=1e-6)
    weights = jnp.asarray(np.random.default_rng(1).normal(size=gaussian.mean.shape), jnp.float32)
    gradient = jax.jit(jax.grad(lambda p: jnp.sum(weights * apply(p, gaussian))))(params)
    assert float(jnp.abs(gradient["mlp"]["layer_1"]["kernel"]).max()) > 0.01


@pytest.mark.parametrize("shape", [(2, 9, 8, 4), (2, 8, 9, 4), (2, 8, 8, 3), (8, 8, 4)])
def test_wrong_inputs_are_refused(network, shape):
    with pytest.raises(ValueError, match=r"spectrum was made for .*; give"):
        network(Gaussian(jnp.zeros(shape), jnp.ones(())))
