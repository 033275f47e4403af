"""Codes of two numbers, as a plane."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from flaxnets.report.figures import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@drawing.styled
def plane(
    points: np.ndarray, labels: np.ndarray, class_names: Sequence[str], title: str
) -> "Figure":
    """Codes of two numbers, coloured by class, each class named at its median.

    Args:
        points: f[N, 2].
        labels: int[N].
        class_names: names that labels index.
        title: of the figure.
    """
    import matplotlib

    figure = drawing.figure(8, 7, title)
    axes = figure.add_subplot()
    colours = matplotlib.colormaps["tab10" if len(class_names) <= 10 else "turbo"]
    for index, name in enumerate(class_names):
        own = points[labels == index]
        if not len(own):
            continue
        place = index if len(class_names) <= 10 else index / (len(class_names) - 1)
        axes.scatter(*own.T, s=5, color=colours(place), alpha=0.5, linewidths=0)
        axes.annotate(
            drawing.shortened(name, 12),
            tuple(np.median(own, axis=0)),
            fontweight="bold",
            horizontalalignment="center",
            verticalalignment="center",
            bbox={
                "facecolor": "white",
                "edgecolor": colours(place),
                "boxstyle": "round,pad=0.2",
            },
        )
    axes.set(xlabel="first number of the code", ylabel="second number")
    axes.set_title(f"{len(points):,} test pictures")
    return figure
