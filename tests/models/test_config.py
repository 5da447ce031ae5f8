"""Configurations: the sizes of the DiT paper, and checks of the fields."""

import dataclasses

import pytest

from gmflow_jax.models import GMDiTConfig, GMMLPConfig, SpectrumMLPConfig, gm_dit_config


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("DiT-S/2", (2, 384, 12, 6)),
        ("DiT-B/4", (4, 768, 12, 12)),
        ("DiT-L/2", (2, 1024, 24, 16)),
        ("DiT-XL/8", (8, 1152, 28, 16)),
    ],
)
def test_sizes_are_those_of_the_dit_paper(name, sizes):
    config = gm_dit_config(name)
    assert (config.patch_size, config.hidden_size, config.depth, config.num_heads) == sizes
    assert (config.num_components, config.log_std_dim) == (8, 1024)


def test_overrides_replace_the_named_sizes():
    config = gm_dit_config("DiT-S/2", depth=3, input_size=(16, 64), num_components=1)
    assert (config.depth, config.num_components) == (3, 1)
    assert config.input_height_width == (16, 64)
    assert config == dataclasses.replace(config)
    assert gm_dit_config("DiT-XL/2") == GMDiTConfig()


@pytest.mark.parametrize("name", ["DiT-M/2", "DiT-XL", "DiT-XL/0", "dit-xl/2"])
def test_unknown_names_are_refused(name):
    with pytest.raises(ValueError, match="no network called"):
        gm_dit_config(name)


@pytest.mark.parametrize(
    "fields",
    [
        {"input_size": 31}, {"input_size": (32, 0)}, {"input_size": (32, 32, 32)},
        {"in_channels": 0}, {"depth": 0}, {"num_heads": 5}, {"hidden_size": 18, "num_heads": 1},
        {"num_classes": -1}, {"num_components": 0}, {"log_std_layers": 0}, {"mlp_ratio": 0.0},
        {"constant_log_std": float("nan")}, {"means_bias_std": -1.0}, {"head": "third"},
        {"dtype": "int8"}, {"param_dtype": "float"}, {"attention": "flash"},
        {"remat": "some"},
    ],
)  # fmt: skip
def test_wrong_fields_of_the_transformer_are_refused(fields):
    with pytest.raises(ValueError, match=r"give|choose"):
        GMDiTConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [{"num_dims": 0}, {"embed_dim": 6}, {"width": 0}, {"min_period": 0.0}, {"max_period": 1e-9}],
)
def test_wrong_fields_of_the_mlp_are_refused(fields):
    with pytest.raises(ValueError, match="give"):
        GMMLPConfig(**fields)


@pytest.mark.parametrize(
    "fields",
    [
        {"base_size": 0}, {"base_size": (8, 8, 8)}, {"num_channels": 0}, {"widths": ()},
        {"widths": (4, 0)}, {"param_dtype": "int8"},
    ],
)  # fmt: skip
def test_wrong_fields_of_the_spectrum_are_refused(fields):
    with pytest.raises(ValueError, match="give"):
        SpectrumMLPConfig(**fields)
