"""Line plots of the study."""

import pathlib

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.common.figures import write_figure
from experiments.study.tables import Values

_MARKERS = "osD^v<>Phx*+"


def error_curves(path: pathlib.Path, title: str, errors: Values, distances: Values, floor: float) -> None:
    """Write endpoint error and energy distance against NFE as a PNG, on logarithmic axes.

    Args:
      path: the PNG.
      title: title of the figure.
      errors: endpoint errors of the solvers.
      distances: energy distances of the solvers; the legend has these solvers.
      floor: energy distance of two sets of exact samples; smaller distances are drawn at this value.
    """
    figure = Figure(figsize=(14, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    left, right = figure.subplots(1, 2)
    styles = {name: _style(i, name) for i, name in enumerate(distances)}
    _curves(left, errors, styles, "endpoint error (RMS)")
    clipped = {name: {n: max(v, floor) for n, v in values.items()} for name, values in distances.items()}
    _curves(right, clipped, styles, "energy distance to the data")
    right.axhline(floor, color="0.5", linewidth=1, linestyle=":")
    right.annotate("two sets of exact samples", (1, floor), (0, -10), textcoords="offset points",
                   size=8, color="0.4")
    figure.legend(*right.get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    write_figure(path, figure)


def _style(index: int, name: str) -> dict:
    """Return the line style of a solver; dashed for one without its first call or without eq. 10."""
    return dict(color=colormaps["tab20"](index % 20), marker=_MARKERS[index % len(_MARKERS)],
                linestyle="--" if "," in name else "-")


def _curves(axes, curves: Values, styles: dict[str, dict], label: str) -> None:
    nfes = sorted({nfe for values in curves.values() for nfe in values})
    for name, values in curves.items():
        axes.plot(list(values), list(values.values()), label=name, markersize=4, linewidth=1.3,
                  **styles[name])
    axes.set(xscale="log", yscale="log", xlabel="network calls (NFE)", ylabel=label)
    axes.set_xticks(nfes, [str(nfe) for nfe in nfes])
    axes.minorticks_off()
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
