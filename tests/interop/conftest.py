"""Copies of golden folders that tests may damage, and networks in shards."""

import json
import shutil
from pathlib import Path

import pytest

from gmflow_jax import interop

FOLDER = Path(__file__).parents[1] / "golden" / "networks" / "tiny_gmdit"


@pytest.fixture
def copy(tmp_path):
    """A copy of the golden folder that a test may damage."""
    folder = tmp_path / "copy"
    for part in ("transformer", "spectrum_net", "scheduler", "model_index.json"):
        target = folder / part
        folder.mkdir(exist_ok=True)
        (shutil.copytree if (FOLDER / part).is_dir() else shutil.copy)(FOLDER / part, target)
    return folder


@pytest.fixture
def split_into_shards():
    """split_into_shards(folder, variant, old_name): two shards and their index, whose path it returns."""

    def split(folder, variant="", old_name=False):
        whole = folder / f"diffusion_pytorch_model{variant}.safetensors"
        tensors = interop.load_safetensors(whole)
        weight_map = {
            name: f"diffusion_pytorch_model{variant}-{1 + i % 2:05d}-of-00002.safetensors"
            for i, name in enumerate(tensors)
        }
        for shard in set(weight_map.values()):
            part = {name: t for name, t in tensors.items() if weight_map[name] == shard}
            interop.save_safetensors(folder / shard, part)
        whole.unlink()
        name = f"{whole.name}.index.json"
        if old_name:
            name = f"diffusion_pytorch_model.safetensors.index{variant}.json"
        (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
        return folder / name

    return split


@pytest.fixture(scope="module", autouse=True)
def _fast_compile(fast_compile_module):
    """Compile every test of interop with few optimisations."""
