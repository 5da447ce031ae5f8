"""Reading and writing safetensors files as numpy arrays."""

import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors relies on
import numpy as np

_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl"}


class TensorFiles(Mapping[str, np.ndarray]):
    """The tensors of one or several safetensors files; each is read when it is asked for, and not kept.

    Raises ValueError if a file is missing, not whole or no safetensors file, or if two files hold the
    same name.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]):
        self._file_of: dict[str, pathlib.Path] = {}
        for path in map(pathlib.Path, paths):
            with _open(path) as file:
                names = set(file.keys())
            twice = sorted(names & self._file_of.keys())
            if twice:
                raise ValueError(
                    f"{path} and {self._file_of[twice[0]]} both hold {twice[0]}; give the shards of one "
                    "network, each once."
                )
            self._file_of |= dict.fromkeys(names, path)

    def __getitem__(self, name: str) -> np.ndarray:
        # A file that stays open keeps the pages that were read: as much memory again as the tensors.
        with _open(self._file_of[name]) as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    def dtypes(self) -> set[str]:
        """The types that the tensors are stored in, by the names of safetensors: F32, BF16, ..."""
        found = set()
        for path in set(self._file_of.values()):
            with _open(path) as file:
                found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        return found


class Renamed(Mapping[str, np.ndarray]):
    """Some tensors of a state dict under other names: {name here: name there}; nothing is read."""

    def __init__(self, state: Mapping[str, np.ndarray], names: Mapping[str, str]):
        self._state, self._names = state, names

    def __getitem__(self, name: str) -> np.ndarray:
        return self._state[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Reads all tensors of a safetensors file, in the types that they are stored in.

    Raises ValueError if the file is missing, not whole or no safetensors file.
    """
    return dict(TensorFiles([path]))


def save_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays to a safetensors file."""
    from safetensors.numpy import save_file

    # The file format stores the raw buffer, so that a transposed view would be written wrongly.
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    save_file(contiguous, path, metadata={"format": "pt"})


def _open(path: pathlib.Path):
    from safetensors import SafetensorError, safe_open

    if path.suffix in _PICKLES:
        raise ValueError(
            f"{path} is a pickle, which may run any code when it is read, and is not loaded. Convert it "
            "where you trust it: safetensors.torch.save_file of torch.load(path, weights_only=True), "
            "tensors by name; see experiments/README.md."
        )
    if not path.is_file():
        raise ValueError(f"There is no file {path}; check the path, or download the folder again.")
    try:
        return safe_open(path, "np")
    except SafetensorError as error:
        raise ValueError(
            f"{path} is not a whole safetensors file ({error}); it was cut short or is another format. "
            "Download it again."
        ) from error
