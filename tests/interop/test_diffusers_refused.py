"""Folders that cannot be loaded are refused with a clear message."""

import json
from pathlib import Path

import numpy as np
import pytest

from gmflow_jax import interop

FOLDER = Path(__file__).parents[1] / "golden" / "networks" / "tiny_gmdit"
WEIGHTS = "diffusion_pytorch_model.safetensors"


def test_folders_without_a_pipeline_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*missing.*experiments\.download"):
        interop.load_diffusers(tmp_path / "missing")
    with pytest.raises(ValueError, match=r"neither model_index\.json nor config\.json"):
        interop.load_diffusers(tmp_path)
    (tmp_path / "model_index.json").write_text("{}")
    with pytest.raises(ValueError, match="none of the folders transformer, spectrum_net, vae"):
        interop.load_diffusers(tmp_path)
    (tmp_path / "model_index.json").write_text("{")
    with pytest.raises(ValueError, match=r"model_index\.json is not JSON"):
        interop.load_diffusers(tmp_path)
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    with pytest.raises(ValueError, match="UNet2DModel; known are"):
        interop.load_diffusers(tmp_path)


def test_damaged_weights_are_refused(copy):
    file = copy / "transformer" / WEIGHTS
    tensors = interop.load_safetensors(file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        interop.load_diffusers(copy)
    extra = np.zeros((2, 3), np.float32)
    other = {n: t for n, t in tensors.items() if n != "proj_out_1.bias"} | {"x": extra}
    interop.save_safetensors(file, other)
    with pytest.raises(ValueError, match=r"missing are proj_out_1\.bias \(32,\), left over are x \(2, 3\)"):
        interop.load_diffusers(copy)
    (copy / "transformer" / "diffusion_pytorch_model.bf16.safetensors").unlink()
    file.rename(file.with_suffix(".bin"))
    with pytest.raises(ValueError, match=r"Pickles \(.bin, .pth\) are not loaded"):
        interop.load_diffusers(copy)


def test_missing_shards_and_shards_in_other_folders_are_refused(copy, split_into_shards):
    index = split_into_shards(copy / "transformer")
    content = json.loads(index.read_text())
    index.write_text(json.dumps({"weight_map": {"x": "../config.json"}}))
    with pytest.raises(ValueError, match="does not list the shards beside it"):
        interop.load_diffusers(copy, "float32")
    index.write_text(json.dumps({"weight_map": None}))
    with pytest.raises(ValueError, match="does not list the shards beside it"):
        interop.load_diffusers(copy, "float32")
    index.write_text(json.dumps(content))
    (copy / "transformer" / next(iter(content["weight_map"].values()))).unlink()
    with pytest.raises(ValueError, match=r"There is no file .*-of-00002"):
        interop.load_diffusers(copy, "float32")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"num_gaussians": 4}, r"proj_out_2.weight has shape \(60, 16\).* needs \(80, 16\).*components"),
        ({"num_layers": 3}, r"missing are transformer_blocks\.2"),
        ({"norm_type": "layer_norm"}, "norm_type = 'layer_norm', but this network supports 'ada_norm_zero'"),
        ({"out_channels": 8}, "out_channels 8"),
        ({"_class_name": "DiTTransformer2DModel"}, "known are"),
        ({"patch_size": None}, "does not say patch_size"),
        ({"num_embeds_ada_norm": None}, "holds a value of a wrong type"),
        ({"num_layers": "2"}, "holds a value of a wrong type"),
    ],
)
def test_configurations_of_other_networks_are_refused(copy, changed, said):
    path = copy / "transformer" / "config.json"
    config = json.loads(path.read_text()) | changed
    path.write_text(json.dumps({k: v for k, v in config.items() if (k, v) != ("patch_size", None)}))
    with pytest.raises(ValueError, match=said):
        interop.load_diffusers(copy)


def test_an_unknown_type_is_refused():
    with pytest.raises(ValueError, match="dtype is int8"):
        interop.load_diffusers(FOLDER, "int8")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('{"shift": null}', "shift = None"),
        ('{"shift": true}', "shift = True"),
        ('{"shift": Infinity}', "shift = inf"),
        ('{"num_calls": 0}', "num_calls = 0, but it must be a whole number, at least 1; correct it"),
        ('{"num_calls": true}', "num_calls = True"),
        ('{"num_calls": "x"}', "num_calls = 'x'"),
        ('{"num_calls": 2.0}', r"num_calls = 2\.0"),
    ],
)
def test_invalid_options_of_the_sampler_are_refused(copy, content, said):
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(content)
    for read in (interop.load_diffusers, interop.read_num_calls):
        with pytest.raises(ValueError, match=f"scheduler_config.json says {said}"):
            read(copy)
