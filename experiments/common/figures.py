"""Pictures of samples: image grids (Pillow) and grids of 2-D histograms (matplotlib)."""

import io
import itertools
import os
import pathlib
from collections.abc import Sequence

import numpy as np
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image, ImageDraw, ImageFont

from experiments.common import files
from gmflow_jax._files import to_path, write_whole
from gmflow_jax.data import BOARD_HALF_WIDTH

_INK, _FAINT_INK, _PAPER = (32, 32, 36), (120, 120, 128), (255, 255, 255)
_UNKNOWN = (165, 190, 225)  # blue, of pixels to complete
_TILE, _GAP, _GROUP_GAP, _HEADER, _MARGIN = 40, 4, 12, 30, 12  # of `digit_grid`, in pixels
_CAPTIONS = "share inside the white squares (1 is best)  /  total variation (0 is best)"
Label = str | tuple[str, str]


def image_grid(path: str | os.PathLike, images, num_columns: int | None = None) -> None:
    """Write images as a PNG grid, row by row.

    Small images are enlarged by a whole factor.

    Args:
      path: file to write; its folder is created.
      images: [N, H, W, C] or [N, H, W], in [0, 1] or uint8, C = 1 or 3.
      num_columns: by default the grid has as many rows as columns, or one row less.

    Raises:
      ValueError: if the shape is another, pixels are NaN or out of range, or num_columns is below 1.
    """
    images = _as_bytes(images)
    num_images, height, width, channels = images.shape
    if num_columns is None:
        num_columns = int(np.ceil(np.sqrt(num_images)))
    if num_columns < 1:
        raise ValueError(f"num_columns is {num_columns}, but a grid needs at least 1 column.")
    num_columns = min(num_columns, num_images)
    zoom = max(1, 64 // max(height, width))
    gap = 2 if max(height, width) <= 64 else 4
    pitch_y, pitch_x = height * zoom + gap, width * zoom + gap
    num_rows = -(-num_images // num_columns)
    canvas = np.full((num_rows * pitch_y + gap, num_columns * pitch_x + gap, channels), 255, np.uint8)
    for index, image in enumerate(images):
        top = gap + index // num_columns * pitch_y
        left = gap + index % num_columns * pitch_x
        canvas[top:top + height * zoom, left:left + width * zoom] = _enlarge(image, zoom)
    _write_png(path, Image.fromarray(canvas.squeeze(-1) if channels == 1 else canvas))


def single_image(path: str | os.PathLike, image) -> None:
    """Write an image [H, W] or [H, W, C], in [0, 1] or uint8, C = 1 or 3, as a PNG of its own size."""
    image = _as_bytes(np.asarray(image)[None])[0]
    _write_png(path, Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image))


def digit_grid(
    path: str | os.PathLike,
    rows: Sequence[tuple[Label, np.ndarray]],
    columns: Sequence[str] = tuple("0123456789"),
) -> None:
    """Write rows of images as a PNG, with labels at the left and a header; grey ones as ink on paper.

    Adjacent rows of one solver form a group; its name is written once, and space separates the groups.
    Small images are enlarged by a whole factor.

    Args:
      path: file to write; its folder is created.
      rows: pairs of a label and images [len(columns), H, W] or [len(columns), H, W, C], in [0, 1] or uint8,
        C = 1 or 3, all of one size. A label is a name, or a pair of solver and NFE.
      columns: the header, a name for each column.

    Raises:
      ValueError: if there is no row, or a row does not have one image per column.
    """
    _check_digit_rows(rows, columns)
    bold, regular = _font(15, bold=True), _font(15)
    groups = [
        (solver, [(_split(label)[1], images) for label, images in members])
        for solver, members in itertools.groupby(rows, key=lambda row: _split(row[0])[0])
    ]
    solver_width = max(bold.getlength(solver) for solver, _ in groups)
    nfe_labels = [nfe for _, members in groups for nfe, _ in members if nfe]
    nfe_width = max(map(regular.getlength, ["NFE", *nfe_labels])) if nfe_labels else 0
    left = int(_MARGIN + solver_width + nfe_width + (28 if nfe_labels else 14))
    size = np.shape(rows[0][1])[1:3]
    zoom = max(1, _TILE // max(size))
    pitch_y, pitch_x = (side * zoom + _GAP for side in size)
    width = left + len(columns) * pitch_x - _GAP + _MARGIN
    height = _HEADER + len(rows) * pitch_y + (len(groups) - 1) * _GROUP_GAP - _GAP + _MARGIN
    canvas = Image.new("RGB", (width, height), _PAPER)
    draw = ImageDraw.Draw(canvas)
    _draw_header(draw, columns, left, pitch_x, bool(nfe_labels))
    top = _HEADER
    for solver, members in groups:
        draw.text((_MARGIN, top + (pitch_y - _GAP) / 2), solver, _INK, bold, "lm")
        for nfe, images in members:
            draw.text((left - 14, top + (pitch_y - _GAP) / 2), nfe, _FAINT_INK, regular, "rm")
            for index, image in enumerate(_inked(images)):
                canvas.paste(Image.fromarray(_enlarge(image, zoom)), (left + index * pitch_x, top))
            top += pitch_y
        top += _GROUP_GAP
    _write_png(path, canvas)


def completion_grid(
    path: str | os.PathLike, given, mask: np.ndarray, completions, columns: Sequence[str], original=True
) -> None:
    """Write a PNG with rows of the given pixels, of completions and of the whole given images.

    Args:
      path: file to write; its folder is created.
      given: [N, H, W] or [N, H, W, C], in [0, 1] or uint8, C = 1 or 3.
      mask: True where pixels are drawn anew, which are blue in the first row, bool [N, H, W].
      completions: [M, H, W] or [M, H, W, C]; completion i is of image i modulo N. Rows that are not full
        are left out, and so is what does not fit: 4 rows, and 16 columns, 8 for images above 64 pixels.
      columns: name of each image, N.
      original: bool, whether to draw the last row, the whole given images.
    """
    num = min(len(given), len(completions), 8 if max(np.shape(given)[1:3]) > 64 else 16)
    num_rows = min(len(completions) // len(given) or 1, 4)
    first = _inked(given[:num])
    rows = [("given", np.where(mask[:num, ..., None], np.uint8(_UNKNOWN), first))]
    for row in range(num_rows):
        start = row * len(given)
        name = "completed" if num_rows == 1 else f"completion {row + 1}"
        rows.append((name, _inked(completions[start : start + num])))
    rows += [("original", first)] if original else []
    digit_grid(path, rows, columns[:num])


def _check_digit_rows(rows: Sequence[tuple[Label, np.ndarray]], columns: Sequence[str]) -> None:
    if not rows:
        raise ValueError("There are no rows to draw; give at least one (label, images).")
    for label, images in rows:
        if len(images) != len(columns):
            raise ValueError(
                f"The row {label!r} has {len(images)} images, but there are {len(columns)} "
                "columns; give one image per column."
            )


def _draw_header(
    draw: ImageDraw.ImageDraw, columns: Sequence[str], left: int, pitch: int, has_nfe: bool
) -> None:
    font, y = _font(15), _HEADER / 2 + 2
    for index, name in enumerate(columns):
        center = (left + index * pitch + (pitch - _GAP) / 2, y)
        draw.text(center, str(name), _FAINT_INK, font, "mm")
    if has_nfe:
        draw.text((left - 14, y), "NFE", _FAINT_INK, font, "rm")


def histogram_grid(
    path: str | os.PathLike,
    rows: Sequence[str],
    columns: Sequence[str | int],
    cells: Sequence[Sequence[np.ndarray | None]],
    captions: Sequence[Sequence[tuple[float, float] | None]],
    note: str = "",
) -> None:
    """Write 2-D histograms of checkerboard points as a PNG, with a row for each solver.

    All cells share one colour scale, in multiples of the board's density, and show 1.2 times its width.

    Args:
      path: file to write; its folder is created.
      rows: names of the rows, such as solvers.
      columns: headers of the columns, such as numbers of network calls.
      cells: cells[i][j] are points [N, 2], or None for an empty cell.
      captions: captions[i][j] is (share inside the white squares, total variation), or None.
      note: text added to the line that explains the captions, for example the scores of exact samples.

    Raises:
      ValueError: if cells or captions do not have an entry for each row and column.
    """
    _check_table("cells", cells, rows, columns)
    _check_table("captions", captions, rows, columns)
    # At 120 dots per inch these are whole pixels, and a histogram bin is exactly 2 x 2 of them.
    inch, top, bottom, space_x, space_y = 1.6, 0.5, 0.35, 0.1, 0.3
    left = max(1.15, 0.25 + 0.095 * max(map(len, rows), default=0))  # a bold letter is 0.095 wide
    width = left + len(columns) * (inch + space_x) + 0.05
    height = top + len(rows) * (inch + space_y) + bottom
    figure = Figure(figsize=(width, height), dpi=120)
    FigureCanvasAgg(figure)
    grey = {"ha": "center", "va": "center", "color": "0.35"}
    figure.text((left + width) / 2 / width, 1 - 0.16 / height, "network calls (NFE)", size=10, **grey)
    for i, row in enumerate(rows):
        y = height - top - i * (inch + space_y) - inch
        figure.text(0.1 / width, (y + inch / 2) / height, row, va="center", size=11, weight="bold")
        for j, column in enumerate(columns):
            x = left + j * (inch + space_x)
            if i == 0:
                center = ((x + inch / 2) / width, (y + inch + 0.07) / height)
                figure.text(*center, str(column), ha="center", va="bottom", size=11, weight="bold")
            if cells[i][j] is not None:
                axes = figure.add_axes((x / width, y / height, inch / width, inch / height))
                _histogram(axes, np.asarray(cells[i][j]), captions[i][j])
    explanation = _CAPTIONS + (f"; {note}" if note else "")
    figure.text((left + width) / 2 / width, 0.16 / height, explanation, size=9.5, **grey)
    # One colour map and grey text need only 256 colours, which make the file three times smaller.
    picture = Image.open(io.BytesIO(_png_bytes(figure))).convert("RGB")
    _write_png(path, picture.quantize(256, dither=Image.Dither.NONE))


def write_figure(path: pathlib.Path, figure: Figure) -> None:
    """Write a matplotlib figure as a PNG."""
    files.write_bytes(path, _png_bytes(figure))


def _png_bytes(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _check_table(name: str, table: Sequence, rows: Sequence, columns: Sequence) -> None:
    if len(table) != len(rows) or any(len(line) != len(columns) for line in table):
        raise ValueError(
            f"{name} has rows of lengths {[len(line) for line in table]}, but there are "
            f"{len(rows)} rows and {len(columns)} columns; give one entry per place."
        )


def _histogram(axes: Axes, points: np.ndarray, caption: tuple[float, float] | None) -> None:
    """Draw the density of points [N, 2], in multiples of the board's, the board's outline and a caption."""
    half, num_bins = 1.2 * BOARD_HALF_WIDTH, 96
    counts, _, _ = np.histogram2d(*points.T, bins=num_bins, range=[[-half, half]] * 2)
    board_density = 1 / (2 * BOARD_HALF_WIDTH**2)  # half of the board's area is white
    density = counts / max(len(points), 1) / (2 * half / num_bins) ** 2 / board_density
    axes.imshow(density.T, origin="lower", extent=(-half, half, -half, half), cmap="magma",
                vmin=0, vmax=1.7, interpolation="nearest")
    axes.add_patch(Rectangle((-BOARD_HALF_WIDTH,) * 2, *(2 * BOARD_HALF_WIDTH,) * 2,
                             fill=False, edgecolor="white", alpha=0.35, linewidth=0.6))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    if caption is not None:
        axes.set_xlabel("{:.3f}  /  {:.3f}".format(*caption), size=9, labelpad=4)


def _inked(images) -> np.ndarray:
    """Convert images to uint8 [N, H, W, 3], grey ones to dark ink on paper."""
    images = _as_bytes(images)
    return images if images.shape[-1] == 3 else np.repeat(255 - images, 3, -1)


def _split(label: Label) -> tuple[str, str]:
    return (label, "") if isinstance(label, str) else (label[0], str(label[1]))


def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load the font that matplotlib ships, so that pictures look the same on every machine."""
    weight = "bold" if bold else "normal"
    properties = font_manager.FontProperties(family="DejaVu Sans", weight=weight)
    return ImageFont.truetype(font_manager.findfont(properties), size)


def _enlarge(image: np.ndarray, zoom: int) -> np.ndarray:
    return image.repeat(zoom, 0).repeat(zoom, 1)


def _as_bytes(images) -> np.ndarray:
    """Convert images in [0, 1], or uint8, to uint8 [N, H, W, C]; add a missing channel axis."""
    images = np.asarray(images)
    images = images if images.dtype == np.uint8 else images.astype(np.float32)
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not images.size:
        raise ValueError(
            f"The images have shape {images.shape}, but a picture needs [N, H, W, C] with "
            "N >= 1 and C = 1 (grey) or 3 (colour); decode latents first."
        )
    if images.dtype == np.uint8:
        return images
    if not (images.min() >= -1e-6 and images.max() <= 1 + 1e-6):  # also catches NaN
        raise ValueError(
            f"The images range from {images.min():.3g} to {images.max():.3g}, but pixels must be "
            "in [0, 1]; map them with gmflow_jax.data.to_unit_range."
        )
    return (images.clip(0, 1) * 255 + 0.5).astype(np.uint8)


def _write_png(path: str | os.PathLike, image: Image.Image) -> None:
    path = to_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, lambda temporary: image.save(temporary, format="PNG", optimize=True))
