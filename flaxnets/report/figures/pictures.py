"""Pictures beside each other, and how like an original they are."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from flaxnets.report.figures import drawing

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@drawing.styled
def side_by_side(
    columns: Mapping[str, np.ndarray], title: str, note: str = ""
) -> "Figure":
    """Versions of the same pictures: a row a picture, a column a version.

    Args:
        columns: pictures uint8[N, H, W, C], or floats from 0 to 1, by the words above
            them, which may have several lines.
        title: of the figure.
        note: a sentence below the title.
    """
    tiles = np.stack([drawing.picture(column) for column in columns.values()], axis=1)
    height, width = tiles.shape[2:4]
    gap = max(1, width // 20)
    tiles = tiles.reshape(-1, height, width, 3)
    laid = drawing.mosaic(tiles, len(columns), gap=gap, empty=1.0)
    wide = max(5.0, min(11.0, 1.3 * len(columns)))
    lines = max(name.count("\n") + 1 for name in columns)
    # Of few columns and many rows, a figure that still fits a screen's width or two.
    tall = min(wide * laid.shape[0] / laid.shape[1], 14.0)
    figure = drawing.figure(wide, tall + 0.75 + 0.17 * lines, title)
    axes = figure.add_subplot()
    axes.imshow(laid, vmin=0, vmax=1, interpolation="nearest")
    drawing.bare(axes)
    axes.xaxis.tick_top()
    axes.set_xticks(
        width / 2 - 0.5 + (width + gap) * np.arange(len(columns)), list(columns)
    )
    axes.tick_params(length=0, labelsize=9)
    if note:
        axes.set_title(note)
    return figure


@drawing.styled
def by_depth(
    names: Sequence[str],
    series: Mapping[str, Sequence[float | None]],
    title: str,
    ylabel: str,
) -> "Figure":
    """A measure at each depth of a network, a line a way, named at its end.

    Args:
        names: of the depths, the shallowest first.
        series: the measure by the ways' names, one value a depth; None leaves a gap.
        title: of the figure.
        ylabel: what is measured, with its unit.
    """
    figure = drawing.figure(8, 4.5, title)
    axes = figure.add_subplot()
    axes.grid(axis="y")
    known = {
        name: [value for value in values if value is not None]
        for name, values in series.items()
    }
    everything = sum(known.values(), [])
    span = max(everything) - min(everything) or 1.0
    ends = []
    for name, values in series.items():
        colour = drawing.COLOURS[list(series).index(name) % len(drawing.COLOURS)]
        axes.plot(
            range(len(names)), np.array(values, float), "o-", markersize=4, color=colour
        )
        if known[name]:
            ends.append((known[name][-1], name, colour))
    drawing.name_lines(axes, len(names) - 1, ends, 0.07 * span)
    axes.set_xticks(range(len(names)), names)
    axes.set_xlim(-0.2, len(names) - 0.8)
    axes.set_title(ylabel)
    return figure
