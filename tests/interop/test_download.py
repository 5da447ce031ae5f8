"""Downloading: what can be seen without the hub is its cache, and the sentences."""

import pytest
from huggingface_hub import constants

from gmflow_jax import interop

REPO, COMMIT = "somebody/network", "0" * 40


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def test_out_of_reach_is_a_sentence(offline, tmp_path):
    with pytest.raises(ValueError, match=r"somebody/network could not be downloaded.*copy the folder"):
        interop.download(REPO, tmp_path / "out")
    assert not list(tmp_path.rglob("*.safetensors"))


def test_what_the_cache_holds_is_found_offline(offline, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--somebody--network" / "snapshots" / COMMIT
    (snapshot / "transformer").mkdir(parents=True)
    refs = tmp_path / "models--somebody--network" / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    with pytest.raises(ValueError, match="has no weights as bfloat16"):
        interop.download(REPO, dtype="bfloat16")
    (snapshot / "transformer" / "x.safetensors").write_bytes(b"")
    assert interop.download(REPO) == snapshot


def test_bad_names_and_types_are_refused(offline):
    with pytest.raises(ValueError, match="The hub has no somebody//network"):
        interop.download("somebody//network")
    with pytest.raises(ValueError, match="dtype is 'int8'"):
        interop.download(REPO, dtype="int8")
