"""Published folders from the Hugging Face hub."""

import os
import pathlib

_PATTERNS = {
    "float32": "*model.safetensors",
    "bfloat16": "*.bf16*.safetensors",
    "float16": "*.fp16*.safetensors",
    None: "*.safetensors",
}


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
      ValueError: If there is no such repository or variant, or the hub cannot be reached.
    """
    try:
        import huggingface_hub as hub
    except ImportError as error:
        raise ValueError("Downloading needs huggingface-hub: pip install 'gmflow-jax[weights]'.") from error
    if dtype not in _PATTERNS:
        raise ValueError(f"dtype is {dtype!r}; give one of {', '.join(filter(None, _PATTERNS))}, or None.")
    try:
        patterns = ["*.json", _PATTERNS[dtype]]
        path = hub.snapshot_download(repo_id, revision=revision, local_dir=folder, allow_patterns=patterns)
    except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError) as error:
        raise ValueError(f"The hub has no {repo_id} ({_first_line(error)}); check the name.") from error
    except OSError as error:
        raise ValueError(
            f"{repo_id} could not be downloaded: {_first_line(error)}. Connect to the network, or copy the "
            "folder here by other means and give its path."
        ) from error
    path = pathlib.Path(path)
    if not any(path.rglob("*.safetensors")):
        raise ValueError(f"{repo_id} has no weights as {dtype or 'safetensors'}; ask for another dtype.")
    return path


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
