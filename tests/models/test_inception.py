"""InceptionV3 against the published graph with random weights, and properties of its input."""

import functools
import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gmflow_jax import interop
from gmflow_jax.models import InceptionFeatures, InceptionV3, functional, num_params
from gmflow_jax.models._inception import network_input
from tests import inception_weights
from tests.helpers import assert_trees_close

CASES = ("a_64x64", "b_256x256", "c_320x300_down")
TOLERANCE = 2e-5  # absolute, of numbers up to 2.8; measured 1.4e-6 (pool3), 1.9e-6 (spatial), 3.2e-6 (logits)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """(compiled function of parameters and images, parameters)."""
    path = tmp_path_factory.mktemp("inception") / "weights.safetensors"
    inception_weights.write(path)
    apply, params = functional(interop.load_inception(path))
    return jax.jit(apply), params


@pytest.fixture(scope="module")
def arrays():
    with np.load(inception_weights.FOLDER / "io.npz") as file:
        return dict(file)


@functools.cache
def abstract_network():
    return functional(nnx.eval_shape(lambda: InceptionV3(nnx.Rngs(0))))


def test_weights_are_those_of_the_golden_outputs():
    """Fails if numpy's random stream changes."""
    digest = hashlib.sha256()
    for _, tensor in sorted(inception_weights.state_dict().items()):
        digest.update(tensor.tobytes())
    expected = json.loads((inception_weights.FOLDER / "weights.json").read_text())["sha256"]
    assert digest.hexdigest() == expected


@pytest.mark.parametrize("case", CASES)
def test_features_match_the_published_graph(network, arrays, case):
    apply, params = network
    expected = InceptionFeatures(*(arrays[f"{case}/{field}"] for field in InceptionFeatures._fields))
    found = apply(params, arrays[f"{case}/images"])
    assert {leaf.dtype for leaf in found} == {jnp.dtype("float32")}
    assert_trees_close(found, expected, rtol=0, atol=TOLERANCE)


def test_images_do_not_influence_each_other(network, arrays):
    apply, params = network
    images = arrays["a_64x64/images"]
    one_by_one = [apply(params, image[None]) for image in images]
    joined = jax.tree.map(lambda *leaves: np.concatenate(leaves), *one_by_one)
    assert_trees_close(apply(params, images), joined, rtol=0, atol=1e-5)


def test_everything_is_float32_where_float64_is_enabled():
    apply, params = abstract_network()
    with jax.enable_x64(True):
        found = jax.eval_shape(apply, params, jax.ShapeDtypeStruct((1, 8, 8, 3), "uint8"))
    assert {str(leaf.dtype) for leaf in found} == {"float32"}


@pytest.mark.parametrize("case", CASES)
def test_input_matches_tensorflow(arrays, case):
    found = network_input(jnp.asarray(arrays[f"{case}/images"]))
    assert found.shape[1:] == (299, 299, 3)
    assert_trees_close(found[:, ::13, ::13], arrays[f"{case}/input"], rtol=0, atol=1e-6)  # measured 1.2e-7


def test_resizing_keeps_pixels_that_need_no_interpolation():
    """Images of 299 pixels are unchanged, of 598 every second pixel is read, and a constant color is kept."""
    images = np.random.default_rng(0).integers(0, 256, (1, 598, 299, 3), np.uint8)
    np.testing.assert_array_equal(network_input(jnp.asarray(images)) * 128 + 128, images[:, ::2])
    for shape in ((1, 1), (7, 400)):
        found = network_input(jnp.full((1, *shape, 3), 192, jnp.uint8))
        np.testing.assert_array_equal(found, np.full((1, 299, 299, 3), 0.5, np.float32))


def test_parameters_are_those_of_the_published_graph():
    """All but the bias of the logits, which no metric uses."""
    _, shapes = abstract_network()
    published = sum(np.prod(shape) for shape in inception_weights.shapes().values())
    assert num_params(shapes) == published - 1008 == 23_884_384
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(shapes)} == {"float32"}


def test_every_product_has_full_precision():
    """A CPU always computes in full precision, so the test inspects the program."""
    apply, params = abstract_network()
    program = str(jax.make_jaxpr(apply)(params, jax.ShapeDtypeStruct((1, 299, 299, 3), "uint8")))
    products = program.count("conv_general_dilated[") + program.count("dot_general[")
    assert products == 95
    assert program.count("precision=(Precision.HIGHEST, Precision.HIGHEST)") == products


@pytest.mark.parametrize(
    ("shape", "dtype", "sentence"),
    [
        ((2, 8, 8, 3), "float32", r"convert float images in \[0, 1\]"),
        ((2, 8, 8, 3), "int32", "uint8 values"),
        ((8, 8, 3), "uint8", "give a batch of RGB images"),
        ((2, 3, 8, 8), "uint8", "channels last"),
        ((2, 8, 8, 4), "uint8", "channels last"),
        ((0, 8, 8, 3), "uint8", "at least one pixel"),
        ((2, 8, 0, 3), "uint8", "at least one pixel"),
    ],
)
def test_wrong_images_are_refused(shape, dtype, sentence):
    apply, params = abstract_network()
    with pytest.raises(ValueError, match=sentence):
        jax.eval_shape(apply, params, jax.ShapeDtypeStruct(shape, dtype))
