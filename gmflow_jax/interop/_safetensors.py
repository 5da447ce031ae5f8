"""Reading and writing of safetensors files as numpy arrays."""

import contextlib
import os
import pathlib
import weakref
from collections.abc import Iterator, Mapping, Sequence

import ml_dtypes  # noqa: F401  registers bfloat16 with numpy, which safetensors relies on
import numpy as np

from gmflow_jax._files import local_copy, to_path, write_whole

_PICKLES = {".pt", ".pth", ".bin", ".ckpt", ".pkl"}


class TensorFiles(Mapping[str, np.ndarray]):
    """Mapping of the tensors of one or several safetensors files, which reads a tensor at each access.

    Args:
      paths: the files. Those in a bucket are copied to the system's temporary folder as long as the mapping
        lives.

    Raises:
      ValueError: if a file is missing, incomplete or not a safetensors file, or two files hold the same
        name.
    """

    def __init__(self, paths: Sequence[str | os.PathLike[str]]):
        self._file_of: dict[str, pathlib.Path] = {}
        self._copy_of: dict[pathlib.Path, pathlib.Path] = {}
        copies = contextlib.ExitStack()
        weakref.finalize(self, copies.close)
        for path in map(to_path, paths):
            _check(path)
            self._copy_of[path] = copies.enter_context(local_copy(path))
            with self._open(path) as file:
                names = set(file.keys())
            twice = sorted(names & self._file_of.keys())
            if twice:
                raise ValueError(
                    f"{path} and {self._file_of[twice[0]]} both hold {twice[0]}; give each shard of "
                    "one network once."
                )
            self._file_of |= dict.fromkeys(names, path)

    def __getitem__(self, name: str) -> np.ndarray:
        # An open file keeps the pages that were read, which doubles the memory of the tensors.
        with self._open(self._file_of[name]) as file:
            return file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)

    def dtypes(self) -> set[str]:
        """Collect the stored types of the tensors, as safetensors names them: F32, BF16, ..."""
        found = set()
        for path in set(self._file_of.values()):
            with self._open(path) as file:
                found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        return found

    def _open(self, path: pathlib.Path):
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(self._copy_of[path], "np")
        except SafetensorError as error:
            raise ValueError(
                f"{path} is not a readable safetensors file ({error}); it is incomplete or has another "
                "format. Download it again."
            ) from error


class Renamed(Mapping[str, np.ndarray]):
    """View of some tensors of a mapping under other names.

    Args:
      state: the tensors by name.
      names: the name in `state` for each name of the view.
    """

    def __init__(self, state: Mapping[str, np.ndarray], names: Mapping[str, str]):
        self._state, self._names = state, names

    def __getitem__(self, name: str) -> np.ndarray:
        return self._state[self._names[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def load_safetensors(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read all tensors of a safetensors file in their stored types.

    Raises:
      ValueError: if the file is missing, incomplete or not a safetensors file.
    """
    return dict(TensorFiles([path]))


def save_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, np.ndarray]) -> None:
    """Write arrays by name to a safetensors file."""
    from safetensors.numpy import save_file

    # safetensors writes the raw buffer, which is wrong for a transposed view.
    contiguous = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}

    def write(target: pathlib.Path) -> None:
        save_file(contiguous, target, metadata={"format": "pt"})

    write_whole(to_path(path), write)


def _check(path: pathlib.Path) -> None:
    if path.suffix in _PICKLES:
        raise ValueError(
            f"{path} is a pickle, which may run any code when it is read, and is not loaded. Convert it "
            "if you trust it: pass the dict of tensors of torch.load(path, weights_only=True) to "
            "safetensors.torch.save_file; see experiments/README.md."
        )
    if not path.is_file():
        raise ValueError(f"There is no file {path}; check the path, or download the folder again.")
