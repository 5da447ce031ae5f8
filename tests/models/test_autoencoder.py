"""AutoencoderKL against diffusers' network, and the properties of its options."""

import dataclasses
import functools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gmflow_jax import interop
from gmflow_jax.models import (
    AutoencoderKL,
    AutoencoderKLConfig,
    abstract,
    num_params,
)
from tests.helpers import all_finite, assert_leaves_close

TOLERANCE = 2e-5  # measured 6e-6 (moments) and 2e-6 (images), as diffusers in float32
FOLDER = Path(__file__).parents[1] / "golden" / "autoencoder"
CONFIG = AutoencoderKLConfig(block_channels=(16, 32), layers_per_block=1, num_groups=8)
SMALL = AutoencoderKLConfig(latent_channels=2, block_channels=(4, 8), layers_per_block=1, num_groups=2)
ONE_STAGE = dataclasses.replace(SMALL, block_channels=(4,))  # compiles in half the time
METHODS = ("encode", "decode")


# Most of the time goes into compiling.
pytestmark = pytest.mark.usefixtures("fast_compile")


@functools.cache
def graphdef(config):
    return nnx.graphdef(nnx.eval_shape(lambda: AutoencoderKL(config, nnx.Rngs(0))))


@functools.cache
def method(name, config, batch_size=None):
    """Return a method as a compiled function of parameters and input."""
    return jax.jit(lambda params, x: getattr(nnx.merge(graphdef(config), params), name)(x, batch_size))


@functools.cache
def random_params(config):
    """Parameters without zeros, so that every part of the network matters."""
    rng = np.random.default_rng(0)
    draw = lambda p: (0.3 * rng.normal(size=p.shape)).astype(np.float32)  # noqa: E731
    return jax.tree.map(draw, abstract(AutoencoderKL, config)[1])


def inputs(name, config, batch=3, height=3, width=5):
    """Random images or latents; the size is that of the latents."""
    channels, factor = config.latent_channels, 1
    if name == "encode":
        channels, factor = config.in_channels, config.downscale
    shape = (batch, factor * height, factor * width, channels)
    return np.random.default_rng(1).uniform(-1, 1, shape).astype(np.float32)


@pytest.fixture(scope="module")
def arrays():
    return dict(np.load(FOLDER / "io.npz"))


@pytest.fixture(params=["", ".legacy_names"], scope="module")
def params(request):
    file = FOLDER / f"diffusion_pytorch_model{request.param}.safetensors"
    return interop.autoencoder_from_torch(interop.load_safetensors(file), CONFIG)


def test_moments_match_diffusers(params, arrays):
    mean, log_var = method("encode", CONFIG)(params, arrays["x"])
    assert_leaves_close(mean, arrays["mean"], TOLERANCE)
    assert_leaves_close(jnp.concatenate([mean, log_var], axis=-1), arrays["moments"], TOLERANCE)
    assert_leaves_close(jnp.exp(log_var / 2), arrays["std"], TOLERANCE)


def test_images_match_diffusers(params, arrays):
    images = method("decode", CONFIG)(params, arrays["z"])
    assert_leaves_close(images, arrays["dec"], TOLERANCE)
    rounded = np.floor(255 * np.clip(np.array(images) / 2 + 0.5, 0, 1) + 0.5)
    np.testing.assert_array_equal(rounded, arrays["image_uint8"])


@pytest.mark.parametrize(
    ("name", "param_dtype"), [("encode", "float32"), ("encode", "bfloat16"), ("decode", "bfloat16")]
)
def test_bfloat16_is_close_and_outputs_are_float32(params, arrays, name, param_dtype):
    """Within the error of diffusers in bfloat16: 0.19 for moments, 0.05 for images."""
    config = dataclasses.replace(CONFIG, dtype="bfloat16", param_dtype=param_dtype)
    params = jax.tree.map(lambda p: jnp.asarray(p, param_dtype), params)
    x, reference, tolerance = {
        "encode": (arrays["x"], tuple(np.split(arrays["moments"], 2, axis=-1)), 0.19),
        "decode": (arrays["z"], arrays["dec"], 0.05),
    }[name]
    found = method(name, config)(params, x)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    differences = jax.tree.map(lambda a, b: np.abs(a - b).max(), found, reference)
    assert all(1e-3 < difference < tolerance for difference in jax.tree.leaves(differences))


def test_log_variance_is_clipped_as_in_diffusers(arrays):
    values = arrays["clip_logvar_in"]
    config = AutoencoderKLConfig(
        latent_channels=len(values), block_channels=(2,), layers_per_block=1, num_groups=1
    )
    params = random_params(config)
    kernel = np.zeros_like(params["quant_conv"]["kernel"])
    bias = np.concatenate([np.zeros_like(values), values])
    params = params | {"quant_conv": {"kernel": kernel, "bias": bias}}
    _, log_var = method("encode", config)(params, np.zeros((1, 1, 1, 3), np.float32))
    np.testing.assert_allclose(np.exp(log_var[0, 0, 0] / 2), arrays["clip_std_out"], rtol=2e-6)


def test_full_size_parameters_are_those_of_the_published_network():
    published = json.loads((FOLDER / "sd_vae_params.json").read_text())
    _, shapes = abstract(AutoencoderKL, AutoencoderKLConfig())
    assert AutoencoderKLConfig().downscale == 8
    assert num_params(shapes) == published["num_params"] == 83_653_863
    without_memory = jax.tree.map(lambda s: np.broadcast_to(np.float32(0), s.shape), shapes)
    state = interop.autoencoder_to_torch(without_memory, AutoencoderKLConfig())
    assert len(state) == 248
    assert {name: list(tensor.shape) for name, tensor in state.items()} == published["params"]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("batch_size", [1, 2])
def test_batches_give_what_all_at_once_gives(name, batch_size):
    params, x = random_params(ONE_STAGE), inputs(name, ONE_STAGE)
    found = method(name, ONE_STAGE, batch_size)(params, x)
    assert_leaves_close(found, method(name, ONE_STAGE)(params, x), 2e-6)  # equal on CPU


def test_batches_bound_memory():
    params, z = random_params(ONE_STAGE), inputs("decode", ONE_STAGE, 8, 16, 16)
    programs = (method("decode", ONE_STAGE, n).lower(params, z).compile() for n in (None, 1))
    at_once, one_by_one = (p.memory_analysis().temp_size_in_bytes for p in programs)
    assert one_by_one < at_once / 4


def test_jitted_and_eager_agree():
    params, z = random_params(ONE_STAGE), inputs("decode", ONE_STAGE)
    eager = nnx.merge(graphdef(ONE_STAGE), params).decode(z)
    assert_leaves_close(method("decode", ONE_STAGE)(params, z), eager, 4e-6)  # 8e-7 for two stages


@pytest.mark.parametrize("name", METHODS)
def test_transposed_inputs_and_kernels_give_transposed_outputs(name):
    """Rows and columns are treated in the same way for every height and width."""

    def transposed(x):
        return x.swapaxes(-4, -3) if x.ndim == 4 and x.shape[0] == x.shape[1] else x

    params, x = random_params(SMALL), inputs(name, SMALL)
    outputs = method(name, SMALL)(params, x)
    shape = (3, 3, 5, 2) if name == "encode" else (3, 6, 10, 3)
    assert {leaf.shape for leaf in jax.tree.leaves(outputs)} == {shape}
    found = method(name, SMALL)(jax.tree.map(transposed, params), x.swapaxes(1, 2))
    assert_leaves_close(jax.tree.map(lambda y: y.swapaxes(1, 2), found), outputs, 2e-6)


def test_gradients_through_decode_are_finite():
    def loss(params, z):
        return jnp.square(nnx.merge(graphdef(ONE_STAGE), params).decode(z)).mean()

    params, z = random_params(ONE_STAGE), inputs("decode", ONE_STAGE)
    grads, grad_z = jax.jit(jax.grad(loss, (0, 1)))(params, z)
    assert all_finite((grads, grad_z))
    touched = {name for name, g in grads.items() if any(map(np.any, jax.tree.leaves(g)))}
    assert touched == {"decoder", "post_quant_conv"}
    assert np.abs(grad_z).min() > 0


@pytest.mark.parametrize(
    ("name", "shape", "batch_size", "sentence"),
    [
        ("encode", (1, 4, 4, 4), None, "channels last"),
        ("encode", (4, 4, 3), None, "channels last"),
        ("encode", (1, 4, 5, 3), None, "crop, pad or resize"),
        ("encode", (1, 3, 4, 3), None, "crop, pad or resize"),
        ("encode", (1, 4, 4, 3), 0, "give at least 1"),
        ("decode", (1, 4, 4, 3), None, "channels last"),
        ("decode", (4, 4, 2), None, "channels last"),
        ("decode", (1, 4, 4, 2), -1, "give at least 1"),
    ],
)
def test_wrong_inputs_are_refused(name, shape, batch_size, sentence):
    model = nnx.merge(graphdef(SMALL), random_params(SMALL))
    with pytest.raises(ValueError, match=sentence):
        getattr(model, name)(jnp.zeros(shape), batch_size)


@pytest.mark.parametrize(
    "fields",
    [
        {"in_channels": 0}, {"out_channels": 0}, {"latent_channels": 0}, {"layers_per_block": 0},
        {"num_groups": 0}, {"num_groups": 48}, {"block_channels": ()}, {"block_channels": (32, 0)},
        {"scaling_factor": 0.0}, {"scaling_factor": float("inf")}, {"dtype": "int8"}, {"precision": "low"},
        {"param_dtype": "float"},
    ],
)  # fmt: skip
def test_wrong_fields_are_refused(fields):
    with pytest.raises(ValueError, match="give"):
        AutoencoderKLConfig(**fields)
