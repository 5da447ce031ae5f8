"""Parameters to and from the authors' PyTorch names and layouts."""

import json

import jax
import numpy as np
import pytest

from gmflow_jax import interop
from gmflow_jax.models import (
    GMMLP,
    GMDiT,
    GMDiTConfig,
    GMMLPConfig,
    SpectrumMLP,
    SpectrumMLPConfig,
    abstract,
    gm_dit_config,
)
from tests.golden_networks import FOLDER, MLP, SIZES, TRANSFORMERS

FULL = json.loads((FOLDER / "full_model_param_shapes.json").read_text())


def transformer_state(name):
    file = FOLDER / name / "transformer" / "diffusion_pytorch_model.safetensors"
    return interop.load_safetensors(file)


def without_memory(shapes):
    """Return arrays of these shapes that all repeat one number and so take no memory."""
    return jax.tree.map(lambda s: np.broadcast_to(np.zeros((), s.dtype), s.shape), shapes)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformer_round_trip_is_exact(name):
    state, config = transformer_state(name), TRANSFORMERS[name]
    params = interop.gm_dit_from_torch(state, config)
    shapes = abstract(GMDiT, config)[1]
    assert jax.tree.map(lambda p: p.shape, params) == jax.tree.map(lambda p: p.shape, shapes)
    back = interop.gm_dit_to_torch(params, config)
    assert back.keys() == state.keys()
    for key in state:
        np.testing.assert_array_equal(back[key], state[key])


def test_mlp_round_trip_is_exact():
    state = interop.load_safetensors(FOLDER / "tiny_mlp2d" / "model.safetensors")
    back = interop.gm_mlp_to_torch(interop.gm_mlp_from_torch(state, MLP), MLP)
    assert back.keys() == state.keys()
    for key in state:
        np.testing.assert_array_equal(back[key], state[key])


@pytest.mark.parametrize("name", ["tiny_spectrum", "tiny_gmdit"])
def test_spectrum_round_trip_is_exact(name):
    file = FOLDER / name / "spectrum_net" / "diffusion_pytorch_model.safetensors"
    state, config = interop.load_safetensors(file), SpectrumMLPConfig(8, 4, (6, 5))
    back = interop.spectrum_mlp_to_torch(interop.spectrum_mlp_from_torch(state, config), config)
    assert back.keys() == state.keys()
    for key in state:
        np.testing.assert_array_equal(back[key], state[key])


def test_every_number_is_converted_exactly_once():
    state = transformer_state("tiny_gmdit")
    sizes = np.cumsum([0] + [tensor.size for tensor in state.values()])
    numbered = {
        key: np.arange(start, start + tensor.size, dtype=np.float32).reshape(tensor.shape)
        for start, (key, tensor) in zip(sizes[:-1], state.items(), strict=True)
    }
    params = interop.gm_dit_from_torch(numbered, TRANSFORMERS["tiny_gmdit"])
    found = np.sort(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)]))
    np.testing.assert_array_equal(found, np.arange(sizes[-1]))


@pytest.mark.parametrize(("key", "head"), [("transformer", "joint"), ("transformer_v2", "separate")])
def test_full_size_transformer_gets_the_authors_names_and_shapes(key, head):
    config = gm_dit_config("DiT-XL/2", head=head)
    state = interop.gm_dit_to_torch(without_memory(abstract(GMDiT, config)[1]), config)
    assert {k: list(v.shape) for k, v in state.items()} == FULL[key]["state_dict"]


def test_full_size_mlp_gets_the_authors_names_and_shapes():
    config = GMMLPConfig()
    state = interop.gm_mlp_to_torch(without_memory(abstract(GMMLP, config)[1]), config)
    assert {k: list(v.shape) for k, v in state.items()} == FULL["checkerboard_mlp_k64"]["state_dict"]


def test_full_size_spectrum_gets_the_authors_names_and_shapes():
    config = SpectrumMLPConfig()
    state = interop.spectrum_mlp_to_torch(without_memory(abstract(SpectrumMLP, config)[1]), config)
    assert {k: list(v.shape) for k, v in state.items()} == FULL["spectrum_net"]["state_dict"]


def test_both_heads_convert_to_the_same_parameters():
    params = interop.gm_dit_from_torch(transformer_state("tiny_gmdit"), TRANSFORMERS["tiny_gmdit"])
    config = TRANSFORMERS["tiny_gmdit_v2"]
    again = interop.gm_dit_from_torch(interop.gm_dit_to_torch(params, config), config)
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_param_dtype_decides_the_type():
    config = GMDiTConfig(**SIZES, param_dtype="bfloat16")
    params = interop.gm_dit_from_torch(transformer_state("tiny_gmdit"), config)
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {"bfloat16"}


def test_missing_and_left_over_tensors_are_named():
    config = TRANSFORMERS["tiny_gmdit"]
    state = transformer_state("tiny_gmdit")
    state["extra.weight"] = state.pop("transformer_blocks.1.attn1.to_q.bias")
    with pytest.raises(ValueError, match=r"transformer_blocks\.1\.attn1\.to_q\.bias.*extra\.weight"):
        interop.gm_dit_from_torch(state, config)
    with pytest.raises(ValueError, match="head='separate'"):
        interop.gm_dit_from_torch(transformer_state("tiny_gmdit_v2"), config)
    with pytest.raises(ValueError, match=r"proj_out_2\.weight"):
        interop.gm_dit_from_torch(transformer_state("tiny_gmdit"), TRANSFORMERS["tiny_gmdit_v2"])


def test_wrong_shapes_are_named():
    config = TRANSFORMERS["tiny_gmdit"]
    for key in ("pos_embed.proj.weight", "proj_out_2.bias", "proj_out_1.weight"):
        state = transformer_state("tiny_gmdit")
        state[key] = state[key][1:]
        with pytest.raises(ValueError, match=f"{key} has shape"):
            interop.gm_dit_from_torch(state, config)


def test_params_that_do_not_fit_are_named():
    params = interop.gm_dit_from_torch(transformer_state("tiny_gmdit"), TRANSFORMERS["tiny_gmdit"])
    with pytest.raises(ValueError, match=r"left over are log_std\.layer_0\.bias"):
        config = GMDiTConfig(**SIZES, constant_log_std=0.0)
        interop.gm_dit_to_torch(params, config)
    with pytest.raises(ValueError, match=r"blocks\..* has shape"):
        interop.gm_dit_to_torch(params, GMDiTConfig(**SIZES | {"depth": 3}))
