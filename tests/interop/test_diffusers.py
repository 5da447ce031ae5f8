"""Reading and writing folders in the layout of diffusers."""

import dataclasses
import json
import shutil
import tracemalloc
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import gm, interop, models

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDER = GOLDEN / "networks" / "tiny_gmdit"
AUTOENCODER = GOLDEN / "autoencoder"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def params_of(network):
    return models.functional(network)[1]


def assert_same_networks(first, second):
    for name in ("model", "spectrum", "autoencoder"):
        networks = getattr(first, name), getattr(second, name)
        assert (networks[0] is None) == (networks[1] is None)
        if networks[0] is not None:
            assert networks[0].config == networks[1].config
            leaves = [jax.tree.leaves(params_of(network)) for network in networks]
            for a, b in zip(*leaves, strict=True):
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("name", ["tiny_gmdit", "tiny_gmdit_v2", "tiny_gmdit_const_logstd"])
def test_the_authors_transformers_give_their_outputs(name):
    """Within 1e-5 of their float64 outputs, relative to the largest."""
    folder = GOLDEN / "networks" / name
    bundle = interop.load_diffusers(folder / "transformer")
    assert bundle.spectrum is None and bundle.autoencoder is None
    io = np.load(folder / "io.npz")
    q = bundle.model(io["base_x"], io["base_t"] / np.float32(1000), io["base_labels"])
    for field in ("means", "log_weights", "log_std"):
        reference = io[f"base_out_{field}_f64"]
        found = np.asarray(getattr(q, field)).reshape(reference.shape)
        np.testing.assert_allclose(found, reference, atol=1e-5 * max(1, np.abs(reference).max()), rtol=0)
    again = models.abstract(models.GMDiT, bundle.config)[0](
        bundle.params, io["base_x"], io["base_t"] / np.float32(1000), io["base_labels"]
    )
    np.testing.assert_array_equal(again.means, q.means)


def test_a_folder_is_loaded_with_all_its_networks():
    bundle = interop.load_diffusers(FOLDER)
    assert bundle.config == bundle.model.config and bundle.autoencoder is None
    assert bundle.id2label == {} and bundle.shift == 1.0
    io = np.load(FOLDER / "spectrum_io.npz")
    gaussian = gm.Gaussian(jnp.asarray(io["h8w8_mean"]), jnp.asarray(io["h8w8_var_per_pixel"]))
    expected = io["h8w8_out_log_var_from_pixel_var_f64"]
    np.testing.assert_allclose(bundle.spectrum(gaussian), expected, atol=1e-5)


def test_the_requested_dtype_decides_which_file_is_read():
    plain, stored = (interop.load_diffusers(FOLDER / "transformer", d) for d in (None, "bfloat16"))
    assert plain.config.param_dtype == "float32" and stored.config.param_dtype == "bfloat16"
    assert {leaf.dtype for leaf in jax.tree.leaves(stored.params)} == {jnp.dtype(jnp.bfloat16)}
    io = np.load(FOLDER / "io.npz")
    q = stored.model(io["base_x"], io["base_t"] / np.float32(1000), io["base_labels"])
    expected = io["base_out_from_bf16_weights_means"]
    np.testing.assert_allclose(q.means, expected, atol=1e-5 * np.abs(expected).max())
    assert interop.load_diffusers(FOLDER / "transformer", jnp.float16).config.param_dtype == "float16"


def test_variants_keep_their_dtype_unless_another_is_requested(copy):
    (copy / "transformer" / WEIGHTS).unlink()
    kept, cast = (interop.load_diffusers(copy, dtype) for dtype in (None, "float32"))
    assert kept.config.param_dtype == "bfloat16" and cast.config.param_dtype == "float32"
    for a, b in zip(*(jax.tree.leaves(x.params) for x in (kept, cast)), strict=True):
        np.testing.assert_array_equal(np.asarray(a, np.float32), np.asarray(b))
    assert kept.spectrum.config.param_dtype == "float32"  # which has no other file


@pytest.mark.parametrize(("variant", "old_name"), [("", False), (".bf16", False), (".bf16", True)])
def test_shards_are_loaded_as_one_network(copy, split_into_shards, variant, old_name):
    dtype = "bfloat16" if variant else None
    whole = interop.load_diffusers(copy, dtype)
    split_into_shards(copy / "transformer", variant, old_name)
    assert_same_networks(interop.load_diffusers(copy, dtype), whole)


def test_both_namings_of_the_autoencoder_are_the_same(tmp_path):
    shutil.copy(AUTOENCODER / "config.json", tmp_path)
    shutil.copy(AUTOENCODER / "diffusion_pytorch_model.legacy_names.safetensors", tmp_path / WEIGHTS)
    new, old = interop.load_diffusers(AUTOENCODER), interop.load_diffusers(tmp_path)
    assert new.model is None and new.config is None and new.params is None
    assert_same_networks(new, old)


def test_old_attention_matrices_may_be_pointwise_convolutions_and_the_factor_absent(tmp_path):
    config = json.loads((AUTOENCODER / "config.json").read_text())
    del config["scaling_factor"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = interop.load_safetensors(AUTOENCODER / WEIGHTS)
    for name in [n for n in tensors if "attentions" in n and tensors[n].ndim == 2]:
        tensors[name] = tensors[name][:, :, None, None]
    interop.save_safetensors(tmp_path / WEIGHTS, tensors)
    loaded = interop.load_diffusers(tmp_path)
    assert loaded.autoencoder.config.scaling_factor == 0.18215
    assert_same_networks(loaded, interop.load_diffusers(AUTOENCODER))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("head", ["joint", "separate"])
def test_a_saved_folder_loads_back_bit_by_bit(tmp_path, dtype, head):
    loaded = interop.load_diffusers(FOLDER, dtype)
    config = dataclasses.replace(loaded.config, head=head)
    bundle = dataclasses.replace(
        loaded,
        model=models.from_params(models.GMDiT, config, loaded.params),
        autoencoder=interop.load_diffusers(AUTOENCODER, dtype).autoencoder,
        id2label={0: "tench, Tinca tinca", 7: "cock"},
        shift=1.5,
    )
    interop.save_diffusers(tmp_path / "out", bundle)
    back = interop.load_diffusers(tmp_path / "out")
    assert_same_networks(back, bundle)
    assert back.id2label == bundle.id2label and back.shift == 1.5
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_saved_names_shapes_types_and_settings_are_the_authors(tmp_path):
    interop.save_diffusers(tmp_path / "out", interop.load_diffusers(FOLDER))
    for part in ("transformer", "spectrum_net"):
        ours, theirs = (interop.load_safetensors(f / part / WEIGHTS) for f in (tmp_path / "out", FOLDER))
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert tensor.dtype == theirs[name].dtype
            np.testing.assert_array_equal(tensor, theirs[name])
        files = [json.loads((f / part / "config.json").read_text()) for f in (tmp_path / "out", FOLDER)]
        assert files[0] == files[1]
    scheduler = "scheduler/scheduler_config.json"
    files = [json.loads((f / scheduler).read_text()) for f in (tmp_path / "out", FOLDER)]
    assert files[0] == files[1]
    index = json.loads((tmp_path / "out" / "model_index.json").read_text())
    theirs = json.loads((FOLDER / "model_index.json").read_text())
    del theirs["vae"]  # which that folder does not hold
    assert index == theirs


def test_bfloat16_goes_to_files_of_that_variant(tmp_path):
    interop.save_diffusers(tmp_path / "out", interop.load_diffusers(FOLDER / "transformer", "bfloat16"))
    name = "transformer/diffusion_pytorch_model.bf16.safetensors"
    ours, theirs = (interop.load_safetensors(f / name) for f in (tmp_path / "out", FOLDER))
    for key, tensor in theirs.items():
        assert ours[key].dtype == tensor.dtype
        np.testing.assert_array_equal(ours[key], tensor)
    assert not (tmp_path / "out" / "transformer" / WEIGHTS).exists()


def test_loading_takes_little_more_memory_than_the_parameters(tmp_path):
    """Memory as allocated by Python and numpy, at most 1.3 times the parameters."""
    config = models.GMDiTConfig(input_size=8, hidden_size=128, depth=8, num_heads=2, num_classes=10)
    network = models.from_params(
        models.GMDiT, config, models.init_params(models.GMDiT, config, jax.random.key(0))
    )
    interop.save_diffusers(tmp_path / "out", interop.Bundle(network))
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params_of(network)))
    interop.load_diffusers(tmp_path / "out")  # what is traced and imported once does not count
    tracemalloc.start()
    try:
        interop.load_diffusers(tmp_path / "out")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size < peak < 1.3 * size


def test_nothing_is_overwritten_or_left_half_written(tmp_path):
    bundle = interop.load_diffusers(FOLDER)
    interop.save_diffusers(tmp_path / "out", bundle)
    with pytest.raises(ValueError, match="exists and is not empty"):
        interop.save_diffusers(tmp_path / "out", bundle)
    config = dataclasses.replace(bundle.config, time_scale=1.0)
    foreign = interop.Bundle(models.from_params(models.GMDiT, config, bundle.params))
    with pytest.raises(ValueError, match="holds no network"):
        interop.save_diffusers(tmp_path / "new", interop.Bundle())
    with pytest.raises(ValueError, match=r"time_scale 1\.0"):
        interop.save_diffusers(tmp_path / "new", foreign)
    wrong = models.from_params(models.GMDiT, dataclasses.replace(bundle.config, depth=3), bundle.params)
    with pytest.raises(ValueError, match="has shape"):
        interop.save_diffusers(tmp_path / "new", dataclasses.replace(bundle, model=wrong))
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_folder_says_for_how_many_calls_its_network_was_distilled(tmp_path):
    bundle = interop.load_diffusers(FOLDER)
    assert bundle.num_calls is None and interop.read_num_calls(FOLDER) is None
    for name, num_calls in (("two", 2), ("numpy", np.int64(4))):
        distilled = dataclasses.replace(bundle, num_calls=num_calls, shift=1.5)
        interop.save_diffusers(tmp_path / name, distilled)
        assert interop.read_num_calls(tmp_path / name) == num_calls
    again = interop.load_diffusers(tmp_path / "two")
    assert (again.num_calls, again.shift) == (2, 1.5)
    # A folder without the file, and that of one network, say nothing.
    assert interop.read_num_calls(tmp_path) is None
    assert interop.load_diffusers(tmp_path / "two" / "transformer").num_calls is None
    for wrong in ({"num_calls": 0}, {"num_calls": 1.5}, {"num_calls": "1"}, {"shift": np.inf}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} is .*, but must be"):
            interop.save_diffusers(tmp_path / "wrong", dataclasses.replace(bundle, **wrong))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["numpy", "two"]
