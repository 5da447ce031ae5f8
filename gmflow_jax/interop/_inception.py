"""Loading of the weights of FID's Inception that pytorch-fid and torch-fidelity publish."""

import functools
import os
import pathlib
import zipfile
from collections.abc import Iterator, Mapping

import numpy as np
from flax import nnx

from gmflow_jax._files import BucketError, local_copy, to_path
from gmflow_jax.interop._convert import (
    CONV,
    MATRIX,
    SAME,
    Entry,
    Params,
    from_torch,
    leaf_at,
    paths,
    to_device,
)
from gmflow_jax.interop._safetensors import _PICKLES, Renamed, TensorFiles
from gmflow_jax.models import InceptionV3, functional

_LAYOUTS = {1: SAME, 2: MATRIX, 4: CONV}
_ENDS = {
    "kernel": "weight", "scale": "weight", "bias": "bias", "mean": "running_mean", "var": "running_var",
}  # fmt: skip


def load_inception(path: str | os.PathLike[str]) -> InceptionV3:
    """Load the Inception network of FID in float32.

    Args:
      path: the state dict of pytorch-fid or torch-fidelity (`pt_inception-2015-12-05`) as .safetensors,
        or as .npz with one array for each name. The bias of the logits and the counters of the
        batch normalisation are ignored.

    Returns:
      The network, which maps uint8 images to `models.InceptionFeatures`. A direct call compiles every
      layer separately; to compile the whole network, use `apply, params = models.functional(network)`
      and `jax.jit(apply)`.

    Raises:
      ValueError: if the file is missing, incomplete, of another format or a pickle, or if a tensor is
        missing, left over or of a wrong shape.
    """
    path = to_path(path)
    state = _read(path)
    used = [n for n in state if n != "fc.bias" and not n.endswith(".num_batches_tracked")]
    graph, shapes = _outline()
    try:
        params = from_torch(Renamed(state, {n: n for n in used}), _inception(shapes), shapes)
    except ValueError as error:
        raise ValueError(
            f"{path} is not FID's Inception, which differs from torchvision's; give the weights that "
            f"pytorch-fid or torch-fidelity use. {error}"
        ) from error
    return nnx.merge(graph, to_device(params))


@functools.cache
def _outline() -> tuple[nnx.GraphDef[InceptionV3], Params]:
    """Return the graph and the shapes of the parameters, which take two seconds to find."""
    network = nnx.eval_shape(lambda: InceptionV3(nnx.Rngs(0)))
    return nnx.graphdef(network), functional(network)[1]


def _inception(shapes: Params) -> Iterator[Entry]:
    """List the entries. Names are equal to ours but for the last part."""
    for path in paths(shapes):
        name = ".".join((*path[:-1], _ENDS[path[-1]]))
        yield Entry(name, path, layout=_LAYOUTS[len(leaf_at(shapes, path).shape)])


def _read(path: pathlib.Path) -> Mapping[str, np.ndarray]:
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.suffix == ".safetensors" or path.suffix in _PICKLES:  # TensorFiles refuses a pickle
        return TensorFiles([path])
    raise ValueError(
        f"{path} ends in neither .safetensors nor .npz, the formats that weights are read from; "
        "convert it to one of them."
    )


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise ValueError(f"There is no file {path}; check the path.")
    try:
        with local_copy(path) as copy, np.load(copy, allow_pickle=False) as file:
            return dict(file)
    except BucketError:
        raise
    except (OSError, EOFError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path} cannot be read as arrays by name ({error}); it is incomplete, has another format "
            "or holds Python objects. Write it by numpy.savez(path, **arrays)."
        ) from error
