"""Downloading, as far as it can be tested offline: the cache, and error messages."""

import pytest
from huggingface_hub import constants

from gmflow_jax import interop

REPO, COMMIT = "somebody/network", "0" * 40


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_an_unreachable_hub_is_reported(offline, tmp_path):
    with pytest.raises(ValueError, match=r"somebody/network could not be downloaded.*copy the folder"):
        interop.download(REPO, tmp_path / "out")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_cached_files_are_found_offline(offline, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--somebody--network" / "snapshots" / COMMIT
    (snapshot / "transformer").mkdir(parents=True)
    refs = tmp_path / "models--somebody--network" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    with pytest.raises(ValueError, match="has no weights as bfloat16"):
        interop.download(REPO, dtype="bfloat16")
    (snapshot / "transformer" / "config.json").write_text("{}")
    (snapshot / "transformer" / "model.bf16-00001-of-00001.safetensors").write_bytes(b"")
    assert interop.download(REPO) == interop.download(REPO, dtype="bfloat16") == snapshot
    with pytest.raises(ValueError, match="has no weights as float32 in transformer"):
        interop.download(REPO, dtype="float32")
    (snapshot / "transformer" / "model-00001-of-00001.safetensors").write_bytes(b"")
    assert interop.download(REPO, dtype="float32") == snapshot


def test_bad_names_and_types_are_refused(offline):
    with pytest.raises(ValueError, match="The hub does not give somebody//network"):
        interop.download("somebody//network")
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        interop.download(REPO, dtype="int8")
