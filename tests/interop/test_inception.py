"""Reading the weights of FID's Inception."""

import jax
import numpy as np
import pytest

from gmflow_jax import interop
from gmflow_jax.models import InceptionV3, functional
from tests import inception_weights

FIRST, BIAS, COUNTER = "Conv2d_1a_3x3.conv.weight", "fc.bias", "Conv2d_1a_3x3.bn.num_batches_tracked"


@pytest.fixture(scope="module")
def params(tmp_path_factory):
    path = tmp_path_factory.mktemp("inception") / "weights.npz"
    inception_weights.write(path)
    network = interop.load_inception(path)
    assert isinstance(network, InceptionV3)
    return functional(network)[1]


def write(path, **changes):
    """Write the state dict with changes to a file; None leaves a tensor out."""
    state = inception_weights.state_dict() | changes
    interop.save_safetensors(path, {name: tensor for name, tensor in state.items() if tensor is not None})
    return path


def test_tensors_are_converted_into_their_layers(params):
    """tests/models/test_inception.py covers the other layers by their outputs."""
    state, name = inception_weights.state_dict(), "Mixed_6b.branch7x7_2"
    block = params["Mixed_6b"]["branch7x7_2"]
    kernel = np.einsum("hwio->oihw", block["conv"]["kernel"])
    np.testing.assert_array_equal(kernel, state[f"{name}.conv.weight"])
    np.testing.assert_array_equal(block["bn"]["scale"], state[f"{name}.bn.weight"])
    np.testing.assert_array_equal(block["bn"]["var"], state[f"{name}.bn.running_var"])
    np.testing.assert_array_equal(params["fc"]["kernel"], state["fc.weight"].T)


def test_both_formats_give_the_same_and_unused_tensors_are_ignored(params, tmp_path):
    """Published files may contain counters of batches, and a bias that is not used."""
    path = write(tmp_path / "weights.safetensors", **{COUNTER: np.array(7), BIAS: None})
    found = functional(interop.load_inception(path))[1]
    jax.tree.map(np.testing.assert_array_equal, found, params)


def test_weights_stored_in_half_precision_become_float32(params, tmp_path):
    state = inception_weights.state_dict()
    path = write(tmp_path / "weights.safetensors", **{n: t.astype(np.float16) for n, t in state.items()})
    found = functional(interop.load_inception(path))[1]
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(found)} == {"float32"}
    jax.tree.map(lambda p, q: np.testing.assert_allclose(p, q, rtol=5e-4, atol=1e-7), found, params)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({FIRST: None}, f"missing are {FIRST}"),
        ({"AuxLogits.fc.weight": np.zeros((1000, 768), np.float32)}, "left over are AuxLogits"),
        ({FIRST: np.zeros((32, 1, 3, 3), np.float32)}, f"{FIRST} has shape"),
    ],
)
def test_weights_of_another_network_are_refused(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=f"give the weights that pytorch-fid.*{sentence}"):
        interop.load_inception(write(tmp_path / "weights.safetensors", **changes))


def cut_short(path):
    np.savez(path, x=np.arange(1000))
    path.write_bytes(path.read_bytes()[:500])


def single_array(path):
    with path.open("wb") as file:
        np.save(file, np.arange(3))


@pytest.mark.parametrize(
    ("name", "make", "sentence"),
    [
        ("weights.npz", None, "There is no file"),
        ("weights.safetensors", None, "There is no file"),
        ("weights.npz", lambda path: path.write_bytes(b""), r"numpy\.savez"),
        ("weights.npz", lambda path: path.write_bytes(b"no archive"), r"numpy\.savez"),
        ("weights.npz", cut_short, r"numpy\.savez"),
        ("weights.npz", single_array, r"numpy\.savez"),
        ("weights.npz", lambda path: np.savez(path, x=np.array([{}])), r"holds Python objects"),
        ("weights.npz", lambda path: np.savez(path, x=np.arange(3)), "missing are Conv2d_1a_3x3"),
        ("weights.safetensors", lambda path: path.write_bytes(b"x"), "not a readable safetensors file"),
        ("weights.pth", None, "pickle.*Convert it"),
        ("weights.pkl", lambda path: path.write_bytes(b"x"), "pickle.*Convert it"),
        ("weights.h5", None, "neither .safetensors nor .npz"),
        ("weights", None, "neither .safetensors nor .npz"),
    ],
)
def test_unreadable_files_are_refused(tmp_path, name, make, sentence):
    path = tmp_path / name
    if make is not None:
        make(path)
    with pytest.raises(ValueError, match=sentence):
        interop.load_inception(path)
