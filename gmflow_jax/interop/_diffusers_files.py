"""The files of a diffusers folder: JSON, and weights in several types and in shards."""

import json
import pathlib
from typing import Any

import numpy as np

from gmflow_jax._files import read_bytes
from gmflow_jax.interop._diffusers_config import Json
from gmflow_jax.interop._safetensors import TensorFiles

WEIGHTS = "diffusion_pytorch_model"
VARIANTS = {"float32": "", "bfloat16": ".bf16", "float16": ".fp16"}
_STORED = {"F32": "float32", "BF16": "bfloat16", "F16": "float16"}


def read_json(path: pathlib.Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      ValueError: if the file is missing or holds anything else.
    """
    if not path.is_file():
        raise ValueError(f"There is no {path}; download the folder again.")
    try:
        content = json.loads(read_bytes(path))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again.") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object; download it again.")
    return content


def write_json(path: pathlib.Path, content: Json) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def weight_files(folder: pathlib.Path, dtype: str | None) -> list[pathlib.Path]:
    """Return the file, or the shards, that hold a network's weights, if possible in a given type."""
    order = sorted(VARIANTS, key=lambda name: name != dtype)
    for variant in (VARIANTS[name] for name in order):
        whole = folder / f"{WEIGHTS}{variant}.safetensors"
        if whole.is_file():
            return [whole]
        for index in (f"{WEIGHTS}.safetensors.index{variant}.json", f"{whole.name}.index.json"):
            if (folder / index).is_file():
                return _shards(folder / index)
    raise ValueError(
        f"{folder} has no {WEIGHTS}.safetensors, nor its .bf16. or .fp16. variant, nor an index of "
        "shards. Pickles (.bin, .pth) are not loaded; convert them to safetensors, see "
        "experiments/README.md."
    )


def _shards(index: pathlib.Path) -> list[pathlib.Path]:
    weight_map = read_json(index).get("weight_map")
    names = set(weight_map.values()) if isinstance(weight_map, dict) else set()
    if not names or any(not isinstance(n, str) or pathlib.PurePath(n).name != n for n in names):
        raise ValueError(f"{index} does not list the shards beside it in weight_map; download it again.")
    return [index.parent / name for name in sorted(names)]


def stored_dtype(tensors: TensorFiles) -> str:
    """Return the name of the type of all tensors, or float32 if there are several."""
    stored = tensors.dtypes()
    if not stored <= _STORED.keys():
        raise ValueError(
            f"The weights are stored as {', '.join(sorted(stored))}, which includes other types than "
            f"{', '.join(_STORED)}; pass the dtype to load them in."
        )
    return _STORED[stored.pop()] if len(stored) == 1 else "float32"


def checked_dtype(dtype: Any) -> str | None:
    """Return the name of a type of parameters that can be loaded, or None for None."""
    if dtype is None:
        return None
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    if name not in VARIANTS:
        raise ValueError(f"dtype is {name}; give one of {', '.join(VARIANTS)}, or None for the stored type.")
    return name
