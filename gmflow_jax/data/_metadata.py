"""What a folder of latents says about itself."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from gmflow_jax.data._files import read_json, typed

if TYPE_CHECKING:
    from gmflow_jax.models import AutoencoderKL

FORMAT_VERSION = 1
FORMATS = ("moments", "sample")
CONTAINERS = ("array_record", "npy")
_ADVICE = "run the command that wrote it again, or copy it again"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of a folder of latents, and what it must hold."""

    file: str
    num_records: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class LatentMetadata:
    """The metadata.json of a folder of latents, which is written when all of it is there.

    Attributes:
      format_version: Of the records and of this file.
      format: 'moments' for the mean and standard deviation of each latent, of the image and of its
        mirror image; 'sample' for one draw of one of them. Neither is multiplied by `scaling_factor`.
      container: 'array_record' or 'npy', a memory-mapped array.
      autoencoder: `autoencoder_fingerprint` of the one that encoded.
      scaling_factor: What a latent is multiplied by for the network.
      downscale: Pixels of an image along the side of a pixel of its latent.
      latent_shape: Height, width and channels.
      image_size: Pixels along the side of an encoded image.
      num_images: Number of latents; images that were broken are not counted.
      num_classes: Labels are below this.
      class_folders: Name of each class's folder, by label.
      class_names: Words of each class, by folder; empty if they were not given.
      shards: The files.
      broken: Names of the images that could not be read and were left out.
      source: Identity of the images, see `ImageSource.description`.
    """

    format_version: int
    format: str
    container: str
    autoencoder: str
    scaling_factor: float
    downscale: int
    latent_shape: tuple[int, int, int]
    image_size: int
    num_images: int
    num_classes: int
    class_folders: tuple[str, ...]
    class_names: Mapping[str, str]
    shards: tuple[Shard, ...]
    broken: tuple[str, ...]
    source: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """The fields as what `json` writes."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "metadata.json") -> "LatentMetadata":
        """Undoes `to_json`.

        Raises ValueError if the version is unknown, a field is missing or not of its type, or the shards
        do not add up.
        """
        version = content.get("format_version") if isinstance(content, Mapping) else FORMAT_VERSION
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{where} is of format version {version}, but this program knows {FORMAT_VERSION}; use the "
                "program that wrote it, or encode the images again."
            )
        try:
            metadata = typed(cls, content)
        except TypeError as error:
            raise ValueError(f"{where} is damaged ({error}); {_ADVICE}.") from error
        total = sum(shard.num_records for shard in metadata.shards)
        if metadata.num_images != total:
            raise ValueError(
                f"{where} is damaged (num_images is {metadata.num_images}, but its shards hold {total}); "
                f"{_ADVICE}."
            )
        return metadata

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "LatentMetadata":
        """Reads a file of metadata. Raises ValueError as `from_json`, and if there is no such file."""
        path = pathlib.Path(path)
        if not path.is_file():
            raise ValueError(f"There is no file {path}; {_ADVICE}.")
        return cls.from_json(read_json(path, Mapping[str, Any], _ADVICE), str(path))


def autoencoder_fingerprint(autoencoder: "AutoencoderKL") -> str:
    """`models.fingerprint` of its parameters in bfloat16: a copy in that type is the same autoencoder."""
    from gmflow_jax.models import fingerprint, functional

    return fingerprint(functional(autoencoder)[1], jnp.bfloat16)


def check_autoencoder(metadata: LatentMetadata, autoencoder: "AutoencoderKL") -> None:
    """Raises ValueError unless these latents were encoded by this autoencoder."""
    scaling_factor = autoencoder.config.scaling_factor
    if metadata.scaling_factor != scaling_factor:
        raise ValueError(
            f"The latents were made with scaling factor {metadata.scaling_factor}, but the autoencoder has "
            f"{scaling_factor}; use the autoencoder that encoded them, or encode the images again."
        )
    found = autoencoder_fingerprint(autoencoder)
    if metadata.autoencoder != found:
        raise ValueError(
            f"The latents were encoded by the autoencoder {metadata.autoencoder[:12]}..., but this one is "
            f"{found[:12]}...; use the one that encoded them, or encode the images again."
        )


def read_class_names(path: str | os.PathLike[str]) -> dict[str, str]:
    """Words of each class folder, from lines such as "n01440764 tench, Tinca tinca".

    This is the form of LOC_synset_mapping.txt, which comes with ImageNet. Raises ValueError if there
    is no such file or a line does not fit.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}; give one with a line of folder and words for each class.")
    names = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        folder, _, words = line.strip().partition(" ")
        if not folder:
            continue
        if not words or folder in names:
            problem = "has no words" if not words else "names a folder for the second time"
            raise ValueError(
                f"Line {number} of {path} {problem}, but each is of one folder and its words, such as "
                "'n01440764 tench, Tinca tinca'; mend it."
            )
        names[folder] = words.strip()
    return names
