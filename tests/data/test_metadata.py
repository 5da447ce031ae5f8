"""Metadata survives JSON, and its fingerprint distinguishes autoencoders."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gmflow_jax import data, models


def changed(autoencoder, change, **config):
    """Return the autoencoder with changed parameters or another configuration."""
    params = jax.tree.map(change, models.functional(autoencoder)[1])
    config = dataclasses.replace(autoencoder.config, **config)
    return models.from_params(models.AutoencoderKL, config, params)


def test_metadata_survives_json(moments_folder):
    metadata = data.Latents(moments_folder).metadata
    text = json.dumps(metadata.to_json())
    assert data.LatentMetadata.from_json(json.loads(text)) == metadata
    assert json.loads(text) == json.loads((moments_folder / "metadata.json").read_text())


def test_metadata_without_newer_fields_can_be_read(moments_folder):
    content = json.loads((moments_folder / "metadata.json").read_text())
    assert content.pop("exif_orientation") is False
    assert data.LatentMetadata.from_json(content) == data.Latents(moments_folder).metadata
    with pytest.raises(ValueError, match=r"damaged \(exif_orientation is 1\)"):
        data.LatentMetadata.from_json(content | {"exif_orientation": 1})


def test_a_bfloat16_copy_has_the_same_fingerprint(autoencoder):
    copy = changed(autoencoder, lambda leaf: jnp.asarray(leaf, jnp.bfloat16), param_dtype="bfloat16")
    fingerprint = data.autoencoder_fingerprint(autoencoder)
    assert data.autoencoder_fingerprint(copy) == fingerprint
    assert len(fingerprint) == 64 and int(fingerprint, 16)


def test_other_parameters_have_another_fingerprint(autoencoder):
    """A change of 1 % in one parameter suffices."""
    def nudge(leaf):
        leaf = np.array(leaf)
        if leaf.shape == (3, 3, 3, 4):  # the first convolution
            leaf[0, 0, 0, 0] *= 1.01
        return leaf

    other = changed(autoencoder, nudge)
    assert data.autoencoder_fingerprint(other) != data.autoencoder_fingerprint(autoencoder)


def test_latents_of_another_autoencoder_are_refused(moments_folder, autoencoder):
    metadata = data.Latents(moments_folder).metadata
    data.check_autoencoder(metadata, autoencoder)
    with pytest.raises(ValueError, match=r"autoencoder [0-9a-f]{12}\.\.\., but this one is .*; use the one"):
        data.check_autoencoder(metadata, changed(autoencoder, lambda leaf: 2 * leaf))
    other = changed(autoencoder, lambda leaf: leaf, scaling_factor=0.18215)
    with pytest.raises(ValueError, match=r"scaling factor 0\.5, but the autoencoder has 0\.18215; use"):
        data.check_autoencoder(metadata, other)


def test_unknown_versions_and_missing_fields_are_refused(moments_folder):
    content = data.Latents(moments_folder).metadata.to_json()
    with pytest.raises(ValueError, match=r"version 2, but this program reads version 1; use"):
        data.LatentMetadata.from_json(content | {"format_version": 2})
    del content["shards"]
    with pytest.raises(ValueError, match=r"damaged \(shards is None\); run"):
        data.LatentMetadata.from_json(content)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("latent_shape", None),
        ("latent_shape", [16, 16]),
        ("scaling_factor", "0.5"),
        ("class_folders", "n01"),
        ("class_names", []),
        ("broken", [1]),
        ("num_images", True),
        ("num_images", 14),
    ],
)
def test_fields_of_other_types_are_refused(moments_folder, tmp_path, field, value):
    content = data.Latents(moments_folder).metadata.to_json()
    (tmp_path / "latents.json").write_text(json.dumps(content | {field: value}))
    with pytest.raises(ValueError, match=rf"latents\.json is damaged \({field} is .*; run"):
        data.LatentMetadata.load(tmp_path / "latents.json")


def test_damaged_files_are_refused(moments_folder, tmp_path):
    path = tmp_path / "latents.json"
    with pytest.raises(ValueError, match=r"no file .*latents\.json; run"):
        data.LatentMetadata.load(path)
    with pytest.raises(ValueError, match=r"metadata\.json is damaged \(it is \[\]\); run"):
        data.LatentMetadata.from_json([])
    content = data.Latents(moments_folder).metadata.to_json()
    content["shards"][1]["num_bytes"] = None
    for text, reason in (("[]", "it is"), ("{", "Expecting"), (json.dumps(content), "num_bytes is None")):
        path.write_text(text)
        with pytest.raises(ValueError, match=rf"latents\.json is damaged \({reason}.*; run"):
            data.LatentMetadata.load(path)


def test_class_names_are_read_from_a_file(tmp_path):
    path = tmp_path / "mapping.txt"
    path.write_text("n01440764 tench, Tinca tinca\n\nn01443537 goldfish\n", encoding="utf-8")
    expected = {"n01440764": "tench, Tinca tinca", "n01443537": "goldfish"}
    assert data.read_class_names(path) == expected
    path.write_text("polar bear\tUrsus maritimus\ncafé \t café, coffee house\n", encoding="utf-8")
    assert data.read_class_names(path) == {"polar bear": "Ursus maritimus", "café": "café, coffee house"}
    for encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        path.write_bytes("n01440764\ttench, Tinca tinca\r\nn01443537  goldfish\r\n".encode(encoding))
        assert data.read_class_names(path) == expected
    path.write_bytes(b"\xfe\xff" + "n01443537 goldfish".encode("utf-16-be"))
    assert data.read_class_names(path) == {"n01443537": "goldfish"}


def test_other_encodings_of_class_names_are_refused(tmp_path):
    path = tmp_path / "mapping.txt"
    for content, reason in (
        ("n01 café".encode("latin-1"), r"is not text in UTF-8 \(.*0xe9.*\)"),
        ("n01 tench".encode("utf-16-le"), "holds zero bytes, as UTF-16"),
        (b"\xff\xfen", r"is not text in UTF-16 \("),
    ):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"mapping\.txt {reason}.*; save it as UTF-8"):
            data.read_class_names(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [("n01 tench\nn02\n", "Line 2 .* has no name"), ("n01 a\nn01 b\n", "Line 2 .* for the second time")],
)
def test_bad_class_names_are_refused(tmp_path, text, reason):
    (tmp_path / "mapping.txt").write_text(text)
    with pytest.raises(ValueError, match=rf"{reason}.*; correct it"):
        data.read_class_names(tmp_path / "mapping.txt")
    with pytest.raises(ValueError, match=r"no file .*absent; give"):
        data.read_class_names(tmp_path / "absent")
