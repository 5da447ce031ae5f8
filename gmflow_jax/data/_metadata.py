"""The metadata of a folder of latents."""

import codecs
import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax.numpy as jnp

from gmflow_jax._files import read_bytes, to_path
from gmflow_jax.data._files import read_json, typed

if TYPE_CHECKING:
    from gmflow_jax.models import AutoencoderKL

FORMAT_VERSION = 1
FORMATS = ("moments", "sample")
CONTAINERS = ("array_record", "npy")
# Encodings by their byte-order marks; that of UTF-32 begins as that of UTF-16.
_ENCODINGS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
_ADVICE = "run the command that wrote it again, or copy it again"


@dataclasses.dataclass(frozen=True)
class Shard:
    """A file of a folder of latents.

    Attributes:
      file: its name.
      num_records: records in it.
      num_bytes: its size.
    """

    file: str
    num_records: int
    num_bytes: int


@dataclasses.dataclass(frozen=True)
class LatentMetadata:
    """The contents of metadata.json, which is written when the folder of latents is complete.

    Attributes:
      format_version: version of the records and of this file.
      format: 'moments' for the mean and the standard deviation of each latent, of the image and of its
        mirror image; 'sample' for one draw of one of them. Neither is multiplied by `scaling_factor`.
      container: 'array_record' or 'npy', a memory-mapped array.
      autoencoder: `autoencoder_fingerprint` of the autoencoder.
      scaling_factor: factor by which latents are multiplied before they enter the network.
      downscale: pixels of an image along a side of one latent pixel.
      latent_shape: height, width and channels.
      image_size: pixels along a side of an encoded image.
      num_images: number of latents, without images that could not be read.
      num_classes: number of classes; labels are below it.
      class_folders: name of each class's folder, by label.
      class_names: names of each class, by folder; empty if they were not given.
      shards: the files.
      broken: names of the images that could not be read and were left out.
      source: identity of the images, see `ImageSource.description`.
      exif_orientation: whether images were turned upright, see `center_crop`; False in older files.
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
    exif_orientation: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the fields as a dict that `json` can write."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any], where: str = "metadata.json") -> "LatentMetadata":
        """Make the metadata from what `to_json` returned.

        Args:
          content: the parsed JSON.
          where: name of the file in an error message.

        Returns:
          The metadata.

        Raises:
          ValueError: if the version is unknown, a field is missing or has another type, or `num_images`
            is not the sum over the shards.
        """
        version = content.get("format_version") if isinstance(content, Mapping) else FORMAT_VERSION
        if version != FORMAT_VERSION:
            raise ValueError(
                f"{where} is of format version {version}, but this program reads version {FORMAT_VERSION}; "
                "use the program that wrote it, or encode the images again."
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
        """Read a metadata file, which may be in a bucket.

        Raises:
          ValueError: as `from_json`, and if there is no such file.
        """
        path = to_path(path)
        if not path.is_file():
            raise ValueError(f"There is no file {path}; {_ADVICE}.")
        return cls.from_json(read_json(path, Mapping[str, Any], _ADVICE), str(path))


def autoencoder_fingerprint(autoencoder: "AutoencoderKL") -> str:
    """Return `models.fingerprint` of the parameters in bfloat16.

    A copy of the autoencoder in bfloat16 therefore has the same fingerprint.
    """
    from gmflow_jax.models import fingerprint, functional

    return fingerprint(functional(autoencoder)[1], jnp.bfloat16)


def check_autoencoder(metadata: LatentMetadata, autoencoder: "AutoencoderKL") -> None:
    """Check that latents were encoded by this autoencoder.

    Raises:
      ValueError: if the scaling factors or the fingerprints differ.
    """
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
    """Read the names of each class folder, from lines such as "n01440764 tench, Tinca tinca".

    LOC_synset_mapping.txt, which comes with ImageNet, has this format. If all lines have a tab, it ends the
    folder, whose name may then have spaces. The file is UTF-8, or begins with a byte-order mark.

    Returns:
      The names by folder.

    Raises:
      ValueError: if there is no such file, it has another encoding, or a line has another form.
    """
    path = to_path(path)
    if not path.is_file():
        raise ValueError(f"There is no file {path}; give a file with one line per class: folder and names.")
    lines = [line.strip() for line in _decoded(path).splitlines()]
    separator = "\t" if all("\t" in line for line in lines if line) else None
    names = {}
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        folder, name = (*(part.strip() for part in line.split(separator, 1)), "")[:2]
        if not name or folder in names:
            problem = "has no name" if not name else "names a folder for the second time"
            raise ValueError(
                f"Line {number} of {path} {problem}, but each line needs one folder and its names, such as "
                "'n01440764 tench, Tinca tinca'; correct it."
            )
        names[folder] = name
    return names


def _decoded(path: pathlib.Path) -> str:
    content = read_bytes(path)
    encoding = next((name for mark, name in _ENCODINGS.items() if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in {encoding.upper()} ({error}); save it as UTF-8.") from error
    if "\0" in text:
        raise ValueError(f"{path} holds zero bytes, as UTF-16 without a mark does; save it as UTF-8.")
    return text
