"""Download of published folders from the Hugging Face hub."""

import os
import pathlib

from gmflow_jax._files import is_address
from gmflow_jax.interop._diffusers_files import VARIANTS


def download(
    repo_id: str,
    folder: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    dtype: str | None = None,
) -> pathlib.Path:
    """Download the configurations and safetensors files of a repository on the hub.

    A second call fetches only files that are missing or have changed.

    Args:
      repo_id: name of the repository, such as 'Lakonik/gmflow_imagenet_k8_ema'.
      folder: the local folder to download to; by default one in the cache of huggingface-hub.
      revision: branch, tag or commit; by default the main branch.
      dtype: variant of the weights to download: 'float32', 'bfloat16' or 'float16'; None for all.

    Returns:
      The folder that holds the files.

    Raises:
      ValueError: if there is no such repository or variant, `folder` is not local, or the download fails.
    """
    if folder is not None and is_address(folder):
        raise ValueError(
            f"{folder} is the address of a bucket, but the hub's files are downloaded to a local folder. "
            f"Download them to one, and copy it: gcloud storage cp -r FOLDER {folder}"
        )
    try:
        from huggingface_hub import errors, snapshot_download
    except ImportError as error:
        raise ValueError("Downloading needs huggingface-hub: pip install 'gmflow-jax[weights]'.") from error
    if dtype is not None and dtype not in VARIANTS:
        raise ValueError(f"dtype is {dtype!r}; give one of {', '.join(VARIANTS)}, or None.")
    try:
        tag = "" if dtype is None else VARIANTS[dtype]
        path = snapshot_download(
            repo_id,
            revision=revision,
            local_dir=None if folder is None else os.fspath(folder),
            allow_patterns=["*.json", f"*{tag}*.safetensors"],
            ignore_patterns=[f"*{tag}*" for tag in VARIANTS.values() if tag and dtype == "float32"],
        )
    except (errors.HfHubHTTPError, errors.HFValidationError) as error:
        raise ValueError(
            f"The hub does not give {repo_id} ({_first_line(error)}); check the name, or log in."
        ) from error
    except Exception as error:  # errors of the library that transfers the data
        raise ValueError(
            f"{repo_id} could not be downloaded ({_first_line(error)}). Try again, which resumes the "
            "download, or copy the folder here by other means and give its path."
        ) from error
    _check_variant(pathlib.Path(path), repo_id, dtype)
    return pathlib.Path(path)


def _check_variant(path: pathlib.Path, repo_id: str, dtype: str | None) -> None:
    """Raise ValueError if a network's folder holds no weights of the type."""
    for network in {config.parent for config in path.rglob("config.json")} or {path}:
        if not any(_is_variant(file.name, dtype) for file in network.glob("*.safetensors")):
            raise ValueError(
                f"{repo_id} has no weights as {dtype or 'safetensors'} in {network.name}; give another dtype."
            )


def _is_variant(name: str, dtype: str | None) -> bool:
    tagged = [kind for kind, tag in VARIANTS.items() if tag and tag in name] or ["float32"]
    return dtype is None or dtype in tagged


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
