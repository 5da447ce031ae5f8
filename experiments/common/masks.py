"""Masks of the pixels to draw anew."""

import io

import numpy as np
from PIL import Image

from experiments.common.files import read_array
from gmflow_jax import evaluation
from gmflow_jax._files import read_bytes, to_path
from gmflow_jax.evaluation._npz import read_header

HALVES = ("lower", "upper", "left", "right")
_Shape = tuple[int, int, int]  # of the images: N, H, W


def read_mask(given: str, num_images: int, size: tuple[int, int]) -> np.ndarray:
    """Read a mask of the pixels to draw anew.

    Args:
      given: one of `HALVES`, or the path of a .png, .npy or .npz file, above 0 where pixels are drawn anew.
      num_images: number of images.
      size: height and width of the images.

    Returns:
      bool [1, H, W], or [num_images, H, W].

    Raises:
      ValueError: if there is no such half or file, or it does not fit.
    """
    if given in HALVES:
        axis = 0 if given in ("lower", "upper") else 1
        late = np.indices(size)[axis] >= size[axis] // 2
        return (late if given in ("lower", "right") else ~late)[None]
    readers = {".png": _read_png, ".npy": _read_npy, ".npz": _read_npz}
    suffix = to_path(given).suffix
    if suffix not in readers:
        raise ValueError(f"--mask is {given}, but must be {', '.join(HALVES)}, or a .png, .npy or .npz file.")
    if not to_path(given).is_file():
        raise ValueError(f"There is no file {given}; give the path of a mask, or {', '.join(HALVES)}.")
    mask = readers[suffix](given, (num_images, *size))
    if not np.isfinite(mask).all():
        raise ValueError(
            f"The mask {given} is NaN or infinite in places; give numbers, above 0 where pixels are drawn "
            "anew."
        )
    return (mask[None] if mask.ndim == 2 else mask) > 0


def _read_npz(path: str, images: _Shape) -> np.ndarray:
    arrays = evaluation.npz_shapes(path)
    if len(arrays) != 1:
        raise ValueError(
            f"{path} must hold one array, the mask, but its arrays are: {', '.join(arrays) or 'none'}."
        )
    ((name, (shape, dtype)),) = arrays.items()
    _check(path, shape, dtype, images)
    return read_array(path, name)


def _read_npy(path: str, images: _Shape) -> np.ndarray:
    content = io.BytesIO(read_bytes(to_path(path)))
    try:
        header = read_header(content)
    except ValueError as error:
        raise ValueError(f"{path} is no .npy file, or it is damaged ({error}).") from error
    _check(path, header.shape, header.dtype, images)
    content.seek(0)
    try:
        return np.load(content, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}).") from error


def _read_png(path: str, images: _Shape) -> np.ndarray:
    content = io.BytesIO(read_bytes(to_path(path)))
    try:
        image = Image.open(content, formats=["PNG"])  # other formats may start programs
        shape = (image.height, image.width)
        if shape == images[1:]:
            image.load()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} is no PNG picture, or it is damaged ({error}).") from error
    _check(path, shape, np.dtype(np.uint8), images)
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError(
            f"The mask {path} is transparent in places, which are neither white nor black. Save it without "
            "transparency."
        )
    deep = image.mode.startswith(("I", "F"))  # more than 8 bits, which are not converted
    return np.asarray(image) if deep else np.asarray(image.convert("RGB")).max(-1)


def _check(path: str, shape: tuple[int, ...], dtype: np.dtype, images: _Shape) -> None:
    """Raise ValueError if a mask does not fit, before its content is read, which may be too large."""
    if dtype.kind not in "biuf":
        raise ValueError(
            f"The mask {path} has dtype {dtype}; give bool, or numbers above 0 where pixels are drawn anew."
        )
    size = images[1:]
    if shape not in (size, (1, *size), images):
        raise ValueError(
            f"The mask {path} has shape {shape}, but the images have shape {images}; give a mask [{size[0]}, "
            f"{size[1]}], or one for each image."
        )
