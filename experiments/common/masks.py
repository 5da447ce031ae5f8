"""Masks of the pixels to draw anew."""

import io

import numpy as np
from PIL import Image

from gmflow_jax import evaluation
from gmflow_jax._files import read_bytes, to_path

HALVES = ("lower", "upper", "left", "right")
_BATCH = 1024  # images read at a time


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
    mask = readers[suffix](given)
    if mask.dtype.kind not in "biuf" or not np.isfinite(mask).all():
        raise ValueError(
            f"The mask {given} has dtype {mask.dtype}, or is NaN or infinite in places; give bool, or "
            "numbers above 0 where pixels are drawn anew."
        )
    mask = mask[None] if mask.ndim == 2 else mask
    if mask.shape not in ((1, *size), (num_images, *size)):
        raise ValueError(
            f"The mask {given} has shape {mask.shape}, but the images have shape "
            f"{(num_images, *size)}; give a mask [{size[0]}, {size[1]}], or one for each image."
        )
    return mask > 0


def read_array(path: str, name: str) -> np.ndarray:
    """Read an array of an .npz file; raise ValueError if there is no such array, or it is damaged."""
    return np.concatenate(list(evaluation.npz_rows(path, name, _BATCH)) or [np.empty(0)])


def _read_npz(path: str) -> np.ndarray:
    names = list(evaluation.npz_shapes(path))
    if len(names) != 1:
        raise ValueError(f"{path} must hold one array, the mask, but its arrays are: {', '.join(names)}.")
    return read_array(path, names[0])


def _read_npy(path: str) -> np.ndarray:
    content = io.BytesIO(read_bytes(to_path(path)))
    try:
        return np.load(content, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is no .npy file of numbers, or it is damaged ({error}).") from error


def _read_png(path: str) -> np.ndarray:
    content = io.BytesIO(read_bytes(to_path(path)))
    try:
        image = Image.open(content)
        image.load()
    except (OSError, ValueError, SyntaxError) as error:
        raise ValueError(f"{path} is no picture, or it is damaged ({error}).") from error
    if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError(
            f"The mask {path} is transparent in places, which are neither white nor black. Save it without "
            "transparency."
        )
    deep = image.mode.startswith(("I", "F"))  # more than 8 bits, which are not converted
    return np.asarray(image) if deep else np.asarray(image.convert("RGB")).max(-1)


