"""Published folders from the Hugging Face hub."""

import os
import pathlib

_TAGS = {"float32": "", "bfloat16": ".bf16", "float16": ".fp16"}


def download(
    repo_id: str,
    folder: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    dtype: str | None = None,
) -> pathlib.Path:
    """Downloads the configurations and safetensors of a folder on the hub; returns where they are.

    A second call fetches only what is missing or has changed.

    Args:
      repo_id: Such as 'Lakonik/gmflow_imagenet_k8_ema'.
      folder: Where to put them; by default in the cache of huggingface-hub.
      revision: Branch, tag or commit.
      dtype: Only one variant of the weights: 'float32', 'bfloat16' or 'float16'; None for all.

    Raises:
      ValueError: If there is no such repository or variant, or the download fails.
    """
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise ValueError("Downloading needs huggingface-hub: pip install 'gmflow-jax[weights]'.") from error
    if dtype is not None and dtype not in _TAGS:
        raise ValueError(f"dtype is {dtype!r}; give one of {', '.join(_TAGS)}, or None.")
    try:
        path = snapshot_download(
            repo_id,
            revision=revision,
            local_dir=folder,
            allow_patterns=["*.json", f"*{_TAGS.get(dtype, '')}*.safetensors"],
            ignore_patterns=[f"*{tag}*" for tag in _TAGS.values() if tag and dtype == "float32"],
        )
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise ValueError(
            f"The hub does not give {repo_id} ({_first_line(error)}); check the name, or log in."
        ) from error
    except Exception as error:  # of whatever library carries the bytes
        raise ValueError(
            f"{repo_id} could not be downloaded ({_first_line(error)}). Try again, which goes on where this "
            "stopped, or copy the folder here by other means and give its path."
        ) from error
    path = pathlib.Path(path)
    for network in {config.parent for config in path.rglob("config.json")} or {path}:
        if not any(_is_variant(file.name, dtype) for file in network.glob("*.safetensors")):
            raise ValueError(
                f"{repo_id} has no weights as {dtype or 'safetensors'} in {network.name}; ask for another "
                "dtype."
            )
    return path


def _is_variant(name: str, dtype: str | None) -> bool:
    tagged = [kind for kind, tag in _TAGS.items() if tag and tag in name] or ["float32"]
    return dtype is None or dtype in tagged


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
