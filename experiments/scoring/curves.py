"""Precision against recall over guidance scales."""

import pathlib
from collections.abc import Sequence

from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.common.figures import write_figure
from experiments.scoring.tables import Result, group_by_row

_MARKERS = "osD^v<>P"


def precision_recall_curves(path: pathlib.Path, results: Sequence[Result]) -> None:
    """Write a PNG with a line for each row and number of steps, and a point for each guidance scale.

    The first and the last point of a line are labelled with their scale.
    """
    figure = Figure(figsize=(10, 6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    for i, ((name, num_steps), members) in enumerate(group_by_row(results).items()):
        members = sorted(members, key=lambda result: result[0].guidance_scale)
        points = [(scores["recall"], scores["precision"]) for _, scores in members]
        axes.plot(*zip(*points, strict=True), color=colormaps["tab10"](i % 10), linewidth=1.3, markersize=4,
                  marker=_MARKERS[i % len(_MARKERS)], label=f"{name}, {num_steps} steps")
        for (cell, _), point in {0: (members[0], points[0]), -1: (members[-1], points[-1])}.values():
            axes.annotate(f"{cell.guidance_scale:g}", point, (4, 4), textcoords="offset points", size=7,
                          color="0.35")
    axes.set(xlabel="recall", ylabel="precision", title="Precision and recall by guidance scale")
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    write_figure(path, figure)
